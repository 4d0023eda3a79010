//! A disk without room, on a file system of the test's own, and one that does not sync. What a host tells its callers when a
//! write fails is in [`crate::failures`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::libc;
use semel_raft::ProposeError;

use crate::child::{FOLDER, child, run, shell};
use crate::counter::{Folders, start_all};
use crate::disk::{last_number, numbered, open, write};
use crate::failures::{acknowledged, report_acknowledged, stopped};

/// A small file system in memory.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Returns `None` where this process may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mount = "exec mount -t tmpfs -o size=48m semel-test \"$0\"";
        let output = run(&mut shell(mount, folder.path().as_os_str()));
        if output.status.success() {
            return Some(Self { folder });
        }
        println!("skipped: no file system can be mounted: {}", String::from_utf8_lossy(&output.stderr).trim());
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes room away; removing the file gives it back.
    fn ballast(&self) -> PathBuf {
        let path = self.path().join("ballast");
        fs::write(&path, vec![1; 12 << 20]).expect("there is room");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let output = run(&mut shell("exec umount \"$0\"", self.folder.path().as_os_str()));
        // The folder goes next, and cannot while it is mounted on; a test that fails already must not panic again.
        if !output.status.success() {
            println!("{} stays mounted", self.folder.path().display());
        }
    }
}

#[test]
fn a_write_that_finds_no_room_is_the_last_and_leaves_whole_writes() {
    // From many writes in one block of the log to one over many blocks.
    for bytes in [3_001, 60_000, 400_000] {
        let Some(disk) = SmallDisk::mount() else { return };
        let ballast = disk.ballast();
        let folder = disk.path().join("data");
        let database = open(&folder).expect("there is room");
        let mut acknowledged = 0;
        let error = loop {
            match write(&database, &numbered(acknowledged + 1, bytes)) {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("No space left on device"), "{error}");
        assert!(acknowledged > 0);
        fs::remove_file(&ballast).expect("removable");
        // There is room again, but what the failed write left behind is not known.
        let refused = write(&database, &numbered(acknowledged + 2, 0)).expect_err("nothing is written any more");
        assert_eq!(refused.to_string(), error.to_string());
        drop(database);
        let database = open(&folder).expect("there is room");
        let last = last_number(&database);
        assert!(last == acknowledged || last == acknowledged + 1, "{last} after {acknowledged} acknowledged");
        println!(
            "no room after {acknowledged} writes of {bytes} bytes; the one that failed is there: {}",
            last > acknowledged
        );
        write(&database, &numbered(last + 1, bytes)).expect("there is room");
        assert_eq!(last_number(&database), last + 1);
    }
}

/// Lets every sync of this process fail from now on, as on a disk that breaks. It cannot be taken back.
fn break_syncs() -> io::Result<()> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let call_number_at = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD_WORD, 0, 0, call_number_at),
        step(JUMP_IF_EQUAL, 1, 0, libc::SYS_fsync as u32),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_fdatasync as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EIO as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the program is well formed and outlives the call, which copies it.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            std::ptr::from_ref(&program),
        )
    };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Three writes on a disk that syncs, and what follows once it does not.
fn write_until_syncs_break(folder: &Path) {
    let database = open(folder).expect("the folder can be opened");
    for number in 1..=3 {
        write(&database, &numbered(number, 0)).expect("rows can be written");
    }
    if let Err(error) = break_syncs() {
        return report_acknowledged(&format!("skipped: {error}"));
    }
    let error = write(&database, &numbered(4, 0)).expect_err("nothing can be synced");
    assert!(error.to_string().contains("Input/output error"), "{error}");
    let mut unsynced = numbered(5, 0);
    unsynced.synced = false;
    let refused = write(&database, &unsynced).expect_err("nothing is written any more");
    assert_eq!(refused.to_string(), error.to_string());
}

/// Runs the test as a process of its own, which lets its syncs fail. Returns `false` where it may not.
fn run_apart(test: &str, folder: &Path) -> bool {
    let output = run(&mut child(test, folder, ""));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let skipped = said.lines().filter_map(acknowledged).find(|said| said.starts_with("skipped"));
    skipped.inspect(|skipped| println!("{skipped}")).is_none()
}

#[test]
fn a_write_that_cannot_be_synced_is_the_last() {
    const NAME: &str = "failing_disk::a_write_that_cannot_be_synced_is_the_last";
    if let Some(folder) = std::env::var_os(FOLDER) {
        return write_until_syncs_break(folder.as_ref());
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    if run_apart(NAME, folder.path()) {
        let database = open(folder.path()).expect("the folder can be opened");
        let last = last_number(&database);
        assert!(last == 3 || last == 4, "{last} after 3 acknowledged");
    }
}

/// Proposes before and after the disk stops to sync, and checks what callers of both groups are told then.
async fn propose_until_syncs_break(root: &Path) {
    let (nodes, _network) = start_all(root, 1, &[1, 2]).await;
    let node = &nodes[0];
    node.propose(1, b"before").await;
    node.propose(2, b"before").await;
    if let Err(error) = break_syncs() {
        return report_acknowledged(&format!("skipped: {error}"));
    }
    assert_eq!(node.handle.propose(1, Bytes::from_static(b"after")).await, Err(ProposeError::Unknown));
    for group in [1, 2] {
        let status = node.wait(group, |status| stopped(status).is_some()).await;
        assert!(stopped(&status).expect("waited for").starts_with("write rows in"), "{status:?}");
        assert_eq!(node.handle.propose(group, Bytes::from_static(b"key")).await, Err(ProposeError::Stopped));
    }
}

#[tokio::test]
async fn a_host_that_cannot_sync_stops_every_replica() {
    const NAME: &str = "failing_disk::a_host_that_cannot_sync_stops_every_replica";
    if let Some(root) = std::env::var_os(FOLDER) {
        return propose_until_syncs_break(root.as_ref()).await;
    }
    let folders = Folders::new();
    if run_apart(NAME, folders.root.path()) {
        let (nodes, _network) = start_all(folders.root.path(), 1, &[1, 2]).await;
        for group in [1, 2] {
            assert!(nodes[0].read(group, b"before").await >= 1, "acknowledged in group {group}");
        }
    }
}
