//! Tests of the metadata group's machine, its view and its bytes.

use bytes::Bytes;
use proptest::prelude::*;
use semel_index::ShardId;
use semel_raft::memory::MemoryStore;
use semel_raft::{LogIndex, Row, State, StateMachine, Store, StoreError, Table, WriteBatch};

use super::*;
use crate::gallery::tests::policy;
use crate::gallery::{Policy, PolicyRequest};
use crate::rotation::GalleryKey;

/// A store that is written as soon as a row is set.
struct Direct(MemoryStore);

impl State for Direct {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.0.scan(table, from, to, rows_max)
    }

    fn put(&mut self, table: Table, key: Bytes, value: Bytes) {
        let mut batch = WriteBatch::default();
        batch.put(table, key, value);
        self.0.write(&batch);
    }

    fn delete(&mut self, table: Table, key: Bytes) {
        let mut batch = WriteBatch::default();
        batch.delete(table, key);
        self.0.write(&batch);
    }
}

/// A group of one, with the view that its publications keep current.
struct Group {
    state: Direct,
    view: MetadataView,
}

impl Group {
    fn new() -> Self {
        Self { state: Direct(MemoryStore::new()), view: MetadataView::default() }
    }

    /// A group with three shards of three replicas, and these nodes.
    fn with_nodes(nodes: u8) -> Self {
        let mut group = Self::new();
        group.apply(&MetadataCommand::Initialise(cluster(1)));
        (0..nodes).for_each(|number| assert_eq!(group.apply(&join(number, 0)), MetadataReceipt::Done));
        group
    }

    fn apply(&mut self, command: &MetadataCommand) -> MetadataReceipt {
        self.apply_bytes(&command.encode())
    }

    fn apply_bytes(&mut self, command: &[u8]) -> MetadataReceipt {
        let applied = MetadataMachine.apply(LogIndex(1), command, &mut self.state).expect("memory can be read");
        self.view = self.view.with(&applied.publications);
        applied.receipt
    }

    fn digest(&self) -> [u8; 32] {
        metadata_digest(&self.state.0).expect("memory can be read")
    }

    fn place(&mut self, nodes: u8) -> MetadataReceipt {
        self.apply(&MetadataCommand::PlaceShards { nodes: (0..nodes).map(node_id).collect() })
    }
}

fn cluster(number: u8) -> Cluster {
    Cluster {
        cluster_id: ClusterId([number; 16]),
        shards: ShardCount::new(3).expect("in range"),
        replicas_per_shard: 3,
    }
}

fn node_id(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn join(number: u8, replicas_held: u32) -> MetadataCommand {
    join_at(number, &format!("host-{number}:7000"), replicas_held)
}

fn join_at(number: u8, address: &str, replicas_held: u32) -> MetadataCommand {
    let (address, version) = (address.to_owned(), "0.1.0".to_owned());
    MetadataCommand::JoinNode { node_id: node_id(number), address, version, replicas_held }
}

fn name() -> GalleryId {
    GalleryId::try_from("people").expect("valid")
}

fn create(policy: Policy) -> MetadataCommand {
    let key = GalleryKey::from_secret([0xAB; 32]);
    MetadataCommand::CreateGallery { name: name(), policy, key, key_checksum: [9; 32], created_at_ms: 77 }
}

fn changed(change: impl FnOnce(&mut PolicyRequest)) -> Policy {
    let mut request = policy().to_request();
    change(&mut request);
    request.validate().expect("valid")
}

fn stricter() -> Policy {
    changed(|request| request.modalities[0].review_threshold_micros = 900_000)
}

fn update(policy: Policy, expected: Option<u64>) -> MetadataCommand {
    MetadataCommand::UpdatePolicy { name: name(), policy, expected: expected.map(PolicyVersion) }
}

fn version_of(receipt: MetadataReceipt) -> u64 {
    match receipt {
        MetadataReceipt::Gallery(gallery) => gallery.policy.version.0,
        other => panic!("a gallery, not {other:?}"),
    }
}

fn commands() -> Vec<MetadataCommand> {
    let coordinator = Coordinator { id: ReplicaId::new(1).expect("not zero"), address: "c:1".to_owned() };
    vec![
        MetadataCommand::Initialise(cluster(1)),
        MetadataCommand::RegisterCoordinator(coordinator),
        create(policy()),
        update(stricter(), Some(1)),
        update(policy(), None),
        join(0, 0),
        join(1, 0),
        join(2, 0),
        MetadataCommand::PlaceShards { nodes: (0..3).map(node_id).collect() },
        MetadataCommand::ConfirmReplicas { node_id: node_id(2) },
        join_at(2, "moved:1", 3),
    ]
}

#[test]
fn the_first_initialisation_wins() {
    let mut group = Group::new();
    for number in [1, 2] {
        let receipt = group.apply(&MetadataCommand::Initialise(cluster(number)));
        assert_eq!(receipt, MetadataReceipt::Cluster(cluster(1)));
    }
    assert_eq!(group.view.cluster(), Some(&cluster(1)));
}

#[test]
fn nothing_joins_a_cluster_that_is_not_initialised() {
    let not_initialised = MetadataReceipt::Refused(MetadataRefusal::NotInitialised);
    let mut group = Group::new();
    for command in [join(0, 0), create(policy()), MetadataCommand::PlaceShards { nodes: vec![node_id(0)] }] {
        assert_eq!(group.apply(&command), not_initialised, "{command:?}");
    }
}

#[test]
fn applying_any_command_twice_in_a_row_changes_nothing() {
    let mut group = Group::new();
    for command in commands() {
        let (first, digest) = (group.apply(&command), group.digest());
        assert!(!matches!(first, MetadataReceipt::Refused(_)), "{command:?}: {first:?}");
        assert_eq!(group.apply(&command), first, "{command:?}");
        assert_eq!(group.digest(), digest, "{command:?}");
    }
}

#[test]
fn the_view_from_publications_is_the_view_from_the_rows() {
    let mut group = Group::new();
    for command in commands() {
        group.apply(&command);
        assert_eq!(MetadataView::load(&group.state.0).expect("readable"), group.view, "{command:?}");
    }
    assert_eq!(group.view.galleries().count(), 1);
    assert_eq!(group.view.coordinators().count(), 1);
    assert_eq!(group.view.nodes().count(), 3);
    assert_eq!(group.view.shards_of(node_id(1)).count(), 3);
}

#[test]
fn a_view_does_not_change_once_taken() {
    let mut group = Group::with_nodes(1);
    let before = group.view.clone();
    group.apply(&create(policy()));
    assert_eq!((before.galleries().count(), group.view.galleries().count()), (0, 1));
}

#[test]
fn a_gallery_created_again_is_given_as_it_is_and_another_policy_is_refused() {
    let mut group = Group::with_nodes(0);
    assert_eq!(version_of(group.apply(&create(policy()))), 1);
    assert_eq!(version_of(group.apply(&update(stricter(), Some(1)))), 2);
    assert_eq!(version_of(group.apply(&create(policy()))), 2);
    let other_spec = changed(|request| request.modalities.truncate(1));
    for other in [stricter(), other_spec] {
        assert_eq!(group.apply(&create(other)), MetadataReceipt::Refused(MetadataRefusal::GalleryExists));
    }
    let gallery = group.view.gallery(&name()).expect("created");
    assert_eq!((gallery.created_at_ms, gallery.key_checksum, gallery.key_version), (77, [9; 32], KeyVersion(1)));
    assert_eq!(group.view.key(&name(), KeyVersion(1)), Some(&GalleryKey::from_secret([0xAB; 32])));
    assert!(group.view.digest_key(&name()).is_some());
}

#[test]
fn every_policy_version_is_kept() {
    let mut group = Group::with_nodes(0);
    group.apply(&create(policy()));
    assert_eq!(version_of(group.apply(&update(stricter(), None))), 2);
    assert_eq!(version_of(group.apply(&update(policy(), Some(2)))), 3);
    for (version, expected) in [(1, policy()), (2, stricter()), (3, policy())] {
        let kept = group.view.policy(&name(), PolicyVersion(version)).expect("kept");
        assert_eq!(kept.policy, expected, "version {version}");
    }
    assert_eq!(group.view.current_policy(&name()).expect("created").version, PolicyVersion(3));
}

#[test]
fn a_policy_update_keeps_the_specs_and_starts_from_the_version_read() {
    let mut group = Group::with_nodes(0);
    assert_eq!(group.apply(&update(policy(), None)), MetadataReceipt::Refused(MetadataRefusal::NoSuchGallery));
    group.apply(&create(policy()));
    group.apply(&update(stricter(), Some(1)));
    let current = PolicyVersion(2);
    let mismatch = MetadataReceipt::Refused(MetadataRefusal::VersionMismatch { current });
    assert_eq!(group.apply(&update(policy(), Some(1))), mismatch);
    let other_spec = changed(|request| request.modalities.truncate(1));
    assert_eq!(group.apply(&update(other_spec, Some(2))), MetadataReceipt::Refused(MetadataRefusal::SpecsChanged));
}

#[test]
fn galleries_are_bounded() {
    let mut group = Group::with_nodes(0);
    let create = |number: usize| MetadataCommand::CreateGallery {
        name: GalleryId::try_from(format!("g{number}")).expect("valid"),
        policy: policy(),
        key: GalleryKey::from_secret([1; 32]),
        key_checksum: [0; 32],
        created_at_ms: 0,
    };
    for number in 0..GALLERIES_MAX {
        assert_eq!(version_of(group.apply(&create(number))), 1);
    }
    let refusal = MetadataRefusal::TooManyGalleries { galleries_max: GALLERIES_MAX };
    assert_eq!(group.apply(&create(GALLERIES_MAX)), MetadataReceipt::Refused(refusal));
    assert_eq!(version_of(group.apply(&create(0))), 1);
}

#[test]
fn a_node_that_moves_keeps_its_replicas_and_changes_its_address() {
    let mut group = Group::with_nodes(3);
    assert_eq!(group.place(3), MetadataReceipt::Done);
    group.apply(&MetadataCommand::ConfirmReplicas { node_id: node_id(1) });
    assert_eq!(group.apply(&join_at(1, "elsewhere:1", 3)), MetadataReceipt::Done);
    let node = group.view.node(node_id(1)).expect("joined");
    assert_eq!((node.address.as_str(), node.replicas_confirmed), ("elsewhere:1", true));
}

#[test]
fn a_node_just_given_replicas_may_restart_before_it_created_them() {
    let mut group = Group::with_nodes(3);
    assert_eq!(group.place(3), MetadataReceipt::Done);
    assert_eq!(group.apply(&join(1, 0)), MetadataReceipt::Done);
}

#[test]
fn an_emptied_volume_is_refused() {
    let mut group = Group::with_nodes(4);
    assert_eq!(group.place(3), MetadataReceipt::Done);
    assert_eq!(group.apply(&MetadataCommand::ConfirmReplicas { node_id: node_id(1) }), MetadataReceipt::Done);
    // The id survived, the replicas did not.
    let refusal = MetadataReceipt::Refused(MetadataRefusal::EmptiedVolume { node_id: node_id(1) });
    assert_eq!(group.apply(&join(1, 0)), refusal);
    assert_eq!(group.apply(&join(1, 3)), MetadataReceipt::Done);
    // Nothing survived: a new id at the address of a node with replicas.
    assert_eq!(group.apply(&join_at(9, "host-1:7000", 0)), refusal);
    assert!(group.view.node(node_id(9)).is_none());
    // At the address of one without, it takes that one's place.
    assert_eq!(group.apply(&join_at(9, "host-3:7000", 0)), MetadataReceipt::Done);
    assert!(group.view.node(node_id(3)).is_none() && group.view.node(node_id(9)).is_some());
}

#[test]
fn shards_are_placed_once_on_nodes_that_joined() {
    let mut group = Group::with_nodes(4);
    let refused = |refusal| MetadataReceipt::Refused(refusal);
    assert_eq!(group.place(5), refused(MetadataRefusal::NoSuchNode { node_id: node_id(4) }));
    assert_eq!(group.place(2), refused(MetadataRefusal::TooFewNodes { nodes: 2, replicas_per_shard: 3 }));
    assert!(!group.view.is_placed());
    assert_eq!(group.place(3), MetadataReceipt::Done);
    let map = group.view.shard_map().clone();
    assert_eq!(map.keys().copied().collect::<Vec<_>>(), [ShardId(0), ShardId(1), ShardId(2)]);
    assert_eq!(group.place(4), MetadataReceipt::Done);
    assert_eq!(group.view.shard_map(), &map);
}

#[test]
fn a_node_that_never_joined_confirms_nothing() {
    let mut group = Group::with_nodes(1);
    let refusal = MetadataRefusal::NoSuchNode { node_id: node_id(1) };
    let command = MetadataCommand::ConfirmReplicas { node_id: node_id(1) };
    assert_eq!(group.apply(&command), MetadataReceipt::Refused(refusal));
}

#[test]
fn commands_are_their_own_bytes() {
    for command in commands() {
        let bytes = command.encode();
        assert!(bytes.len() < COMMAND_BYTES_MAX);
        assert_eq!(MetadataCommand::decode(&bytes), Ok(command));
    }
}

/// Logs are replayed for ever: bytes of version 1 decode to the same commands and rows in every later version.
#[test]
fn bytes_of_version_1_still_decode() {
    let mut group = Group::new();
    let kept: Vec<Vec<u8>> = COMMANDS_V1.lines().map(bytes_of).collect();
    let decoded: Vec<MetadataCommand> =
        kept.iter().map(|bytes| MetadataCommand::decode(bytes).expect("version 1")).collect();
    assert_eq!(decoded, commands());
    for bytes in &kept {
        group.apply_bytes(bytes);
    }
    let loaded = Direct(MemoryStore::new());
    let mut batch = WriteBatch::default();
    for line in ROWS_V1.lines() {
        let (key, value) = line.split_once(' ').expect("key, then value");
        batch.put(METADATA, bytes_of(key), bytes_of(value));
    }
    loaded.0.write(&batch);
    assert_eq!(MetadataView::load(&loaded.0).expect("version 1"), group.view);
}

/// While version 1 is the one written, what is written is what is kept.
#[test]
fn bytes_written_are_those_of_version_1() {
    let mut group = Group::new();
    commands().iter().for_each(|command| assert!(!matches!(group.apply(command), MetadataReceipt::Refused(_))));
    let written: String = commands().iter().map(|command| format!("{}\n", hex_of(&command.encode()))).collect();
    let rows = group.state.0.rows(METADATA);
    let rows: String = rows.iter().map(|(key, value)| format!("{} {}\n", hex_of(key), hex_of(value))).collect();
    assert_eq!((written.as_str(), rows.as_str()), (COMMANDS_V1, ROWS_V1));
}

const COMMANDS_V1: &str = include_str!("../../testdata/v1/commands.hex");
const ROWS_V1: &str = include_str!("../../testdata/v1/rows.hex");

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digits).collect()
}

#[test]
fn values_out_of_range_are_malformed() {
    let check = |command: MetadataCommand, field| {
        assert_eq!(MetadataCommand::decode(&command.encode()), Err(DecodeError::Invalid { field }));
    };
    check(MetadataCommand::Initialise(Cluster { replicas_per_shard: 0, ..cluster(1) }), "replicas_per_shard");
    check(MetadataCommand::Initialise(Cluster { replicas_per_shard: 8, ..cluster(1) }), "replicas_per_shard");
    let id = ReplicaId::new(6).expect("not zero");
    check(MetadataCommand::RegisterCoordinator(Coordinator { id, address: "c:1".to_owned() }), "coordinator");
    check(join_at(1, "", 0), "address");
    check(join_at(1, &"a".repeat(257), 0), "address");
    check(MetadataCommand::PlaceShards { nodes: vec![node_id(1); NODES_MAX + 1] }, "nodes");
    assert_eq!(MetadataCommand::decode(&[]), Err(DecodeError::Version { found: 0 }));
    assert_eq!(MetadataCommand::decode(&[2, 0]), Err(DecodeError::Version { found: 2 }));
    let bytes = COMMAND_BYTES_MAX + 1;
    assert_eq!(MetadataCommand::decode(&vec![1; bytes]), Err(DecodeError::TooLong { bytes }));
}

#[test]
fn a_corrupt_row_stops_the_replica() {
    let mut group = Group::with_nodes(1);
    let mut batch = WriteBatch::default();
    batch.put(METADATA, &b"c"[..], &[1, 0xFF][..]);
    group.state.0.write(&batch);
    let error = MetadataMachine.apply(LogIndex(1), &join(0, 0).encode(), &mut group.state).expect_err("corrupt");
    assert_eq!(error.table, METADATA);
    assert!(MetadataView::load(&group.state.0).is_err());
}

#[test]
fn debug_output_holds_no_secret() {
    let mut group = Group::with_nodes(0);
    let command = create(policy());
    let encoded = command.encode();
    let applied = MetadataMachine.apply(LogIndex(1), &encoded, &mut group.state).expect("readable");
    let message = <crate::v1::CommandBytes as prost::Message>::decode(&encoded[1..]).expect("decodes");
    group.view = group.view.with(&applied.publications);
    let shown = format!("{command:?} {message:?} {applied:?} {:?}", group.view);
    assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab, "), "{shown}");
}

proptest! {
    #[test]
    fn hostile_bytes_are_refused_and_change_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut group = Group::with_nodes(3);
        let digest = group.digest();
        for hostile in [bytes.clone(), [&[1][..], &bytes].concat()] {
            if MetadataCommand::decode(&hostile).is_err() {
                prop_assert_eq!(group.apply_bytes(&hostile), MetadataReceipt::Refused(MetadataRefusal::Malformed));
                prop_assert_eq!(group.digest(), digest);
            }
        }
        // One byte changed or the end cut off: whatever it decodes to, nothing panics, and the view stays that of the rows.
        let commands = commands();
        let mut damaged = commands[which.index(commands.len())].encode().to_vec();
        let position = at.index(damaged.len());
        damaged[position] = to;
        group.apply_bytes(&damaged);
        group.apply_bytes(&damaged[..position]);
        prop_assert_eq!(MetadataView::load(&group.state.0).expect("readable"), group.view);
    }
}
