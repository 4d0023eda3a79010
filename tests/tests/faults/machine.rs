//! What scenarios ask of the machine: tools, a small volume, a limit on memory; and the removal of what an earlier run that was killed
//! has left behind.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Why the machine does not do what a scenario needs.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Prints a line that also shows where the test harness keeps the output of tests that pass.
pub(crate) fn say(line: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn command(arguments: &[&str]) -> Result<String, Refused> {
    let (program, rest) = arguments.split_first().expect("a command has a name");
    let output = Command::new(program).args(rest).output().map_err(|error| Refused(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Refused(format!("{}: {}", arguments.join(" "), said.trim())))
}

/// A name of this process's: `stem` with its id.
pub(crate) fn ours(stem: &str) -> String {
    format!("{stem}{}", std::process::id())
}

/// Refuses unless this process is root and finds every program.
pub(crate) fn check(programs: &[&str]) -> Result<(), Refused> {
    if fs::metadata("/proc/self").map(|own| own.uid()).ok() != Some(0) {
        return Err(Refused("not root".to_owned()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    match programs.iter().find(|program| !found(program)) {
        Some(program) => Err(Refused(format!("{program} is not installed; see deploy/setup"))),
        None => Ok(()),
    }
}

/// The scenario's folder: removed at the end, kept if the test fails.
pub(crate) struct Folder(Option<TempDir>);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("{}-", ours("semel-faults-"))).tempdir();
        Self(Some(folder.expect("a temporary folder can be made")))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().expect("only Drop takes it").path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let folder = self.0.take().expect("it is dropped once");
        if std::thread::panicking() {
            say(&format!("the servers' folders and logs stay in {}", folder.keep().display()));
        }
    }
}

/// A small file system in memory, unmounted when dropped.
pub(crate) struct Volume {
    path: PathBuf,
    /// Files that take room away.
    ballast: Vec<PathBuf>,
}

impl Volume {
    pub(crate) fn mount(path: PathBuf, bytes: u64) -> Result<Self, Refused> {
        fs::create_dir_all(&path).map_err(|error| Refused(error.to_string()))?;
        let size = format!("size={bytes}");
        command(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &path.display().to_string()])?;
        Ok(Self { path, ballast: Vec::new() })
    }

    /// Fills the volume up, but for so many bytes.
    pub(crate) fn fill_but(&mut self, bytes_left: u64) {
        let found = nix::sys::statvfs::statvfs(&self.path).expect("a volume can be looked at");
        let free = found.blocks_available() as u64 * found.fragment_size() as u64;
        if free > bytes_left {
            let path = self.path.join(format!("ballast-{}", self.ballast.len()));
            let ballast = fs::File::create(&path).expect("an empty file needs no room");
            let filled = nix::fcntl::posix_fallocate(&ballast, 0, (free - bytes_left) as i64);
            filled.expect("there is as much room as was seen");
            self.ballast.push(path);
        }
    }

    /// Makes room again.
    pub(crate) fn make_room(&mut self) {
        for ballast in self.ballast.drain(..) {
            fs::remove_file(ballast).expect("the ballast is there");
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    if let Err(refused) = command(&["umount", "--lazy", &path.display().to_string()]) {
        say(&format!("a volume stays mounted: {refused}"));
    }
}

/// By how much a limit on memory is lowered at once: as much of it as can be.
const TIGHTEN_BY_BYTES: [u64; 5] = [4 << 20, 1 << 20, 256 << 10, 64 << 10, 0];

/// A control group that limits memory, in either version of the interface. Removed when dropped.
pub(crate) struct MemoryLimit {
    group: PathBuf,
    /// The files of the limit, of what is used, and of the count of kills.
    limit: &'static str,
    used: &'static str,
    kills: &'static str,
}

impl MemoryLimit {
    pub(crate) fn new() -> Result<Self, Refused> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounted = |kind: &str, option: &str| {
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find_map(|fields| {
                let fits = fields.get(2) == Some(&kind) && fields.get(3)?.split(',').any(|one| one == option);
                fits.then(|| PathBuf::from(fields[1]))
            })
        };
        let name = ours("semel-faults-");
        let made = if let Some(root) = mounted("cgroup", "memory") {
            let (limit, kills) = ("memory.limit_in_bytes", "memory.oom_control");
            Self { group: root.join(name), limit, used: "memory.usage_in_bytes", kills }
        } else if let Some(root) = mounted("cgroup2", "rw") {
            let controllers = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
            if !controllers.split_whitespace().any(|controller| controller == "memory") {
                return Err(Refused("no control group limits memory here".to_owned()));
            }
            Self { group: root.join(name), limit: "memory.max", used: "memory.current", kills: "memory.events" }
        } else {
            return Err(Refused("no control groups".to_owned()));
        };
        fs::create_dir(&made.group).map_err(|error| Refused(format!("make a control group: {error}")))?;
        Ok(made)
    }

    /// What is to be run in front of a command so that it runs in the group. It becomes the command.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.group.display());
        ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec()
    }

    /// Lowers the limit to what the group uses now, and below that by as much as the kernel can win back.
    pub(crate) fn tighten(&self) {
        let used = fs::read_to_string(self.group.join(self.used)).expect("the group has such a file");
        let used: u64 = used.trim().parse().expect("a number of bytes");
        let lower = TIGHTEN_BY_BYTES.iter().map(|by| used.saturating_sub(*by));
        // Refused where nothing more can be won back; the group is then at its limit, or grows and is limited at the next call.
        let _ = lower.map(|bytes| fs::write(self.group.join(self.limit), bytes.to_string())).find(Result::is_ok);
    }

    /// Processes killed because the limit was reached.
    pub(crate) fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.group.join(self.kills)).expect("the group has such a file");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|number| number.trim().parse().ok()).expect("the kernel counts what it kills")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.group) {
            say(&format!("control group {} stays: {error}", self.group.display()));
        }
    }
}

/// Removes what runs have left behind that were killed: their servers, namespaces, bridges, volumes, control groups and folders.
pub(crate) fn remove_leftovers() {
    for name in command(&["ip", "netns", "list"]).unwrap_or_default().lines().filter_map(|line| line.split(' ').next())
    {
        if is_left(name, "semel-faults-") {
            for process in command(&["ip", "netns", "pids", name]).unwrap_or_default().lines() {
                if let Ok(id) = process.parse() {
                    // It may have ended meanwhile.
                    let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
                }
            }
            let _ = command(&["ip", "netns", "del", name]);
        }
    }
    for name in names_in(Path::new("/sys/class/net")).iter().filter(|name| is_left(name, "smf")) {
        let _ = command(&["ip", "link", "del", name]);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for path in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(path).iter().filter_map(OsStr::to_str).any(|name| is_left(name, "semel-faults-")) {
            unmount(Path::new(path));
        }
    }
    for root in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new) {
        for name in names_in(root).iter().filter(|name| is_left(name, "semel-faults-")) {
            let _ = fs::remove_dir(root.join(name));
        }
    }
    let folder = std::env::temp_dir();
    for name in names_in(&folder).iter().filter(|name| is_left(name, "semel-faults-")) {
        let _ = fs::remove_dir_all(folder.join(name));
    }
}

/// Whether a name is `stem`, the id of a process that is gone, and anything but a digit.
fn is_left(name: &str, stem: &str) -> bool {
    let Some(rest) = name.strip_prefix(stem) else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && !Path::new("/proc").join(&rest[..digits]).exists()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
