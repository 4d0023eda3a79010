//! Tests of the metadata group's machine, its view and its bytes.

use std::fmt::Write as _;

use bytes::Bytes;
use proptest::prelude::*;
use semel_index::ShardId;
use semel_raft::memory::MemoryStore;
use semel_raft::{LogIndex, ReplicaId, Row, State, StateMachine, Store, StoreError, Table, WriteBatch};

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

fn coordinator_id(number: u64) -> CoordinatorId {
    CoordinatorId::new(number).expect("in range")
}

fn replica(id: u64) -> ReplicaId {
    ReplicaId::new(id).expect("not zero")
}

fn commands() -> Vec<MetadataCommand> {
    let coordinator = Coordinator { id: coordinator_id(1), address: "c:1".to_owned() };
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

/// Those of version 2, after those of version 1.
fn commands_2() -> Vec<MetadataCommand> {
    vec![
        join(3, 0),
        join(4, 0),
        start(0, 0, 3),
        start(1, 1, 3),
        start(2, 2, 3),
        MetadataCommand::BeginReplace { shard: ShardId(0), replica: replica(10) },
        MetadataCommand::EndMove { shard: ShardId(0), replica: replica(10), replaced: true },
        MetadataCommand::CancelMove { shard: ShardId(1) },
        MetadataCommand::BeginReplace { shard: ShardId(2), replica: replica(12) },
        MetadataCommand::RemoveNode { node_id: node_id(4) },
    ]
}

/// Those of version 3, after those of versions 1 and 2.
fn commands_3() -> Vec<MetadataCommand> {
    let register = |number| {
        let address = format!("c:{number}");
        MetadataCommand::RegisterCoordinator(Coordinator { id: coordinator_id(number), address })
    };
    vec![
        register(2),
        register(3),
        replace(2, 0xA1),
        end_replacement(2, 6, true),
        replace(3, 0xA2),
        MetadataCommand::CancelReplacement { coordinator: coordinator_id(3) },
        end_replacement(3, 7, false),
        replace(2, 0xA3),
    ]
}

fn replace(coordinator: u64, volume: u8) -> MetadataCommand {
    MetadataCommand::ReplaceCoordinator { coordinator: coordinator_id(coordinator), volume: VolumeId([volume; 16]) }
}

fn end_replacement(coordinator: u64, id: u64, replaced: bool) -> MetadataCommand {
    let coordinator = coordinator_id(coordinator);
    MetadataCommand::EndReplacement { coordinator, replica: replica(id), replaced }
}

fn all_commands() -> Vec<MetadataCommand> {
    [commands(), commands_2(), commands_3(), commands_4()].concat()
}

/// Those of version 4, after those before.
fn commands_4() -> Vec<MetadataCommand> {
    let with_engine = |engine: &str| changed(|request| request.engine = engine.to_owned());
    let create = MetadataCommand::CreateGallery {
        name: GalleryId::try_from("voices").expect("valid"),
        policy: with_engine("exact"),
        key: GalleryKey::from_secret([0xab; 32]),
        key_checksum: [0xcd; 32],
        created_at_ms: 1_767_225_600_000,
    };
    vec![create, update(with_engine("faiss:PQ2x4fs"), Some(3))]
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
    for command in all_commands() {
        let (first, digest) = (group.apply(&command), group.digest());
        assert!(!matches!(first, MetadataReceipt::Refused(_)), "{command:?}: {first:?}");
        assert_eq!(group.apply(&command), first, "{command:?}");
        assert_eq!(group.digest(), digest, "{command:?}");
    }
}

#[test]
fn the_view_from_publications_is_the_view_from_the_rows() {
    let mut group = Group::new();
    for command in all_commands() {
        group.apply(&command);
        assert_eq!(MetadataView::load(&group.state.0).expect("readable"), group.view, "{command:?}");
    }
    assert_eq!(group.view.galleries().count(), 2);
    assert_eq!(group.view.coordinators().count(), 3);
    assert_eq!(group.view.nodes().count(), 4);
    assert_eq!(group.view.shards_of(node_id(1)).count(), 3);
    assert_eq!(group.view.moves().count(), 2);
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
}

#[test]
fn a_volume_that_was_emptied_altogether_is_another_node_and_the_old_one_stays_while_shards_count_on_it() {
    let mut group = Group::with_nodes(4);
    assert_eq!(group.place(3), MetadataReceipt::Done);
    assert_eq!(group.apply(&join_at(8, "host-1:7000", 0)), MetadataReceipt::Done);
    let address = |group: &Group, number| group.view.node(node_id(number)).map(|node| node.address.clone());
    assert_eq!(address(&group, 1).as_deref(), Some(""), "nobody is to be sent there for the old one");
    assert_eq!(address(&group, 8).as_deref(), Some("host-1:7000"));
    let in_use = MetadataRefusal::NodeInUse { node_id: node_id(1), replicas: 3 };
    assert_eq!(group.apply(&MetadataCommand::RemoveNode { node_id: node_id(1) }), MetadataReceipt::Refused(in_use));
    // At the address of one without replicas, it takes that one's place.
    assert_eq!(group.apply(&join_at(9, "host-3:7000", 0)), MetadataReceipt::Done);
    assert!(group.view.node(node_id(3)).is_none() && group.view.node(node_id(9)).is_some());
    // The old volume comes back to the address after all.
    assert_eq!(group.apply(&join(1, 3)), MetadataReceipt::Done);
    assert_eq!(address(&group, 1).as_deref(), Some("host-1:7000"));
    assert_eq!(address(&group, 8), None, "nothing was on it yet");
}

fn start(shard: u32, from: u8, to: u8) -> MetadataCommand {
    MetadataCommand::StartMove { shard: ShardId(shard), from: node_id(from), to: node_id(to) }
}

fn moving(receipt: MetadataReceipt) -> ReplicaMove {
    match receipt {
        MetadataReceipt::Move(moving) => moving,
        other => panic!("a move, not {other:?}"),
    }
}

#[test]
fn a_move_is_begun_once_under_a_new_id_and_ends_with_another_map() {
    let mut group = Group::with_nodes(4);
    group.place(3);
    group.apply(&MetadataCommand::ConfirmReplicas { node_id: node_id(1) });
    let begun = moving(group.apply(&start(0, 1, 3)));
    assert_eq!(moving(group.apply(&start(0, 1, 3))), begun);
    assert_eq!((begun.to.replica.get(), begun.to.node, begun.state), (10, node_id(3), MoveState::Learning));
    assert_eq!(group.view.move_of(ShardId(0)), Some(&begun));
    let replica = begun.to.replica;
    let given_up = MetadataCommand::EndMove { shard: ShardId(0), replica, replaced: false };
    let too_early = MetadataRefusal::MoveUnderWay { shard: ShardId(0), to: node_id(3) };
    assert_eq!(group.apply(&given_up), MetadataReceipt::Refused(too_early), "nobody gave it up");
    assert_eq!(group.apply(&MetadataCommand::BeginReplace { shard: ShardId(0), replica }), MetadataReceipt::Done);
    // Given up too late: what the group has become counts.
    assert_eq!(group.apply(&MetadataCommand::CancelMove { shard: ShardId(0) }), MetadataReceipt::Done);
    let end = MetadataCommand::EndMove { shard: ShardId(0), replica, replaced: true };
    assert_eq!(group.apply(&end), MetadataReceipt::Done);
    assert_eq!(group.apply(&end), MetadataReceipt::Done, "it is over already");
    let placement = &group.view.shard_map()[&ShardId(0)];
    assert_eq!(placement.epoch, 2);
    assert!(placement.voters.contains(&begun.to) && !placement.voters.contains(&begun.from));
    assert!(!group.view.counts_on(ShardId(0), begun.from.replica));
    assert_eq!(group.view.moves().count(), 0);
    // The other shards' replicas follow; then the node may be forgotten, and may come back with nothing.
    for (shard, state) in [(1, true), (2, false)] {
        assert!(group.view.node(node_id(1)).expect("joined").replicas_confirmed, "before shard {shard}");
        let replica = moving(group.apply(&start(shard, 1, 3))).to.replica;
        group.apply(&MetadataCommand::BeginReplace { shard: ShardId(shard), replica });
        group.apply(&MetadataCommand::EndMove { shard: ShardId(shard), replica, replaced: true });
        assert_eq!(group.view.node(node_id(1)).expect("joined").replicas_confirmed, state, "after shard {shard}");
    }
    assert_eq!(group.apply(&join(1, 0)), MetadataReceipt::Done);
    assert_eq!(group.apply(&MetadataCommand::RemoveNode { node_id: node_id(1) }), MetadataReceipt::Done);
    assert!(group.view.node(node_id(1)).is_none());
}

#[test]
fn a_move_that_is_given_up_leaves_the_map_as_it_was_and_its_id_is_never_used_again() {
    let mut group = Group::with_nodes(4);
    group.place(3);
    let map = group.view.shard_map().clone();
    let begun = moving(group.apply(&start(0, 0, 3)));
    let cancel = MetadataCommand::CancelMove { shard: ShardId(0) };
    assert_eq!(group.apply(&cancel), MetadataReceipt::Done);
    let given_up = MetadataCommand::BeginReplace { shard: ShardId(0), replica: begun.to.replica };
    let refusal = MetadataRefusal::MoveGivenUp { shard: ShardId(0) };
    assert_eq!(group.apply(&given_up), MetadataReceipt::Refused(refusal));
    let refusal = MetadataRefusal::MoveUnderWay { shard: ShardId(0), to: node_id(3) };
    assert_eq!(group.apply(&start(0, 0, 3)), MetadataReceipt::Refused(refusal), "until it is cleared away");
    group.apply(&MetadataCommand::EndMove { shard: ShardId(0), replica: begun.to.replica, replaced: false });
    assert_eq!((group.view.shard_map(), group.view.moves().count()), (&map, 0));
    assert_eq!(group.apply(&cancel), MetadataReceipt::Done, "there is none");
    assert_eq!(moving(group.apply(&start(0, 0, 3))).to.replica.get(), begun.to.replica.get() + 1);
}

#[test]
fn a_move_that_cannot_be_is_refused() {
    let mut group = Group::with_nodes(4);
    let refused = |refusal| MetadataReceipt::Refused(refusal);
    assert_eq!(group.apply(&start(0, 0, 3)), refused(MetadataRefusal::NotPlaced { shard: ShardId(0) }));
    group.place(3);
    let shard = ShardId(0);
    assert_eq!(group.apply(&start(9, 0, 3)), refused(MetadataRefusal::NotPlaced { shard: ShardId(9) }));
    assert_eq!(group.apply(&start(0, 3, 1)), refused(MetadataRefusal::NoReplicaThere { shard, node_id: node_id(3) }));
    let there = MetadataRefusal::ReplicaThereAlready { shard, node_id: node_id(1) };
    assert_eq!(group.apply(&start(0, 0, 1)), refused(there));
    assert_eq!(group.apply(&start(0, 0, 7)), refused(MetadataRefusal::NoSuchNode { node_id: node_id(7) }));
    moving(group.apply(&start(0, 0, 3)));
    let under_way = MetadataRefusal::MoveUnderWay { shard, to: node_id(3) };
    assert_eq!(group.apply(&start(0, 1, 3)), refused(under_way));
    let replica = ReplicaId::new(1).expect("not zero");
    let stale = MetadataCommand::BeginReplace { shard, replica };
    assert_eq!(group.apply(&stale), refused(MetadataRefusal::NoSuchMove { shard }));
    let of_another = MetadataCommand::EndMove { shard, replica, replaced: true };
    assert_eq!(group.apply(&of_another), MetadataReceipt::Done);
    assert_eq!(group.view.moves().count(), 1);
}

#[test]
fn moves_are_bounded() {
    let mut group = Group::new();
    let shards = ShardCount::new(MOVES_MAX as u32 + 1).expect("in range");
    group.apply(&MetadataCommand::Initialise(Cluster { shards, ..cluster(1) }));
    (0..4).for_each(|number| assert_eq!(group.apply(&join(number, 0)), MetadataReceipt::Done));
    group.place(3);
    for shard in 0..MOVES_MAX as u32 {
        moving(group.apply(&start(shard, 0, 3)));
    }
    let refusal = MetadataRefusal::TooManyMoves { moves_max: MOVES_MAX };
    assert_eq!(group.apply(&start(MOVES_MAX as u32, 0, 3)), MetadataReceipt::Refused(refusal));
}

#[test]
fn a_drain_takes_every_replica_to_the_emptiest_node_that_can_hold_it() {
    let mut group = Group::with_nodes(5);
    group.place(3);
    let live: Vec<NodeId> = (0..5).map(node_id).collect();
    let plan = plan_drain(&group.view, node_id(0), &live);
    let takers: Vec<_> = plan.iter().map(|(shard, taker)| (shard.0, taker.expect("two nodes are free"))).collect();
    assert_eq!(takers, [(0, node_id(3)), (1, node_id(4)), (2, node_id(3))]);
    moving(group.apply(&start(0, 0, 3)));
    let plan = plan_drain(&group.view, node_id(0), &live[..3]);
    assert_eq!(plan, [(ShardId(1), None), (ShardId(2), None)], "what moves already is not moved again");
}

#[test]
fn a_lost_volume_of_a_coordinator_is_replaced_by_a_replica_with_an_id_never_used_before() {
    let mut group = Group::new();
    commands_3().iter().take(2).for_each(|register| assert_eq!(group.apply(register), MetadataReceipt::Done));
    let second = coordinator_id(2);
    assert_eq!(group.view.coordinator_replicas(second), CoordinatorReplicas::first(second));
    assert_eq!(group.view.coordinator_of(replica(2)), Some(second));
    let joining = Some(JoiningReplica { volume: VolumeId([1; 16]), cancelling: false });
    let begun = CoordinatorReplicas { coordinator: second, voter: replica(2), newest: replica(6), joining };
    for _ in 0..2 {
        assert_eq!(group.apply(&replace(2, 1)), MetadataReceipt::CoordinatorReplicas(begun));
    }
    assert_eq!(group.view.replacement(), Some(&begun));
    assert!(!begun.is_retired(replica(2)) && !begun.is_retired(replica(6)) && !begun.is_retired(replica(7)));
    // One at a time: another volume, and another coordinator, wait.
    let under_way = MetadataReceipt::Refused(MetadataRefusal::ReplacementUnderWay { coordinator: second });
    assert_eq!(group.apply(&replace(2, 9)), under_way);
    assert_eq!(group.apply(&replace(3, 1)), under_way);
    // It is not given up, so it cannot have ended without the new replica.
    assert_eq!(group.apply(&end_replacement(2, 6, false)), under_way);
    // Of another replica, which is over.
    assert_eq!(group.apply(&end_replacement(2, 5, true)), MetadataReceipt::Done);
    assert_eq!(group.apply(&end_replacement(2, 6, true)), MetadataReceipt::Done);
    let ended = group.view.coordinator_replicas(second);
    assert_eq!((ended.voter, ended.joining), (replica(6), None));
    assert!(ended.is_retired(replica(2)) && !ended.is_retired(replica(6)));
    assert_eq!(group.view.coordinator_of(replica(6)), Some(second));
    assert_eq!(group.view.coordinator_of(replica(2)), None);
    // The next one has the next id, whichever coordinator it is for.
    group.apply(&replace(3, 3));
    assert_eq!(group.view.coordinator_replicas(coordinator_id(3)).newest, replica(7));
}

#[test]
fn a_replacement_that_is_given_up_leaves_the_voter_and_its_id_is_never_used_again() {
    let mut group = Group::new();
    commands_3().iter().take(2).for_each(|register| assert_eq!(group.apply(register), MetadataReceipt::Done));
    let (second, cancel) = (coordinator_id(2), MetadataCommand::CancelReplacement { coordinator: coordinator_id(2) });
    assert_eq!(group.apply(&cancel), MetadataReceipt::Done);
    assert_eq!(group.view.coordinator_replicas(second), CoordinatorReplicas::first(second));
    group.apply(&replace(2, 1));
    assert_eq!(group.apply(&cancel), MetadataReceipt::Done);
    // The same volume again must wait until the group is rid of the replica.
    assert!(matches!(group.apply(&replace(2, 1)), MetadataReceipt::Refused(_)));
    assert_eq!(group.apply(&end_replacement(2, 6, false)), MetadataReceipt::Done);
    let ended = group.view.coordinator_replicas(second);
    assert_eq!((ended.voter, ended.newest, ended.joining), (replica(2), replica(6), None));
    assert!(ended.is_retired(replica(6)) && !ended.is_retired(replica(2)));
    group.apply(&replace(2, 1));
    assert_eq!(group.view.coordinator_replicas(second).newest, replica(7));
    // What was given up too late has happened.
    group.apply(&cancel);
    assert_eq!(group.apply(&end_replacement(2, 7, true)), MetadataReceipt::Done);
    assert_eq!(group.view.coordinator_replicas(second).voter, replica(7));
}

#[test]
fn nothing_of_a_coordinator_that_never_was_is_replaced() {
    let mut group = Group::new();
    let refusal = MetadataRefusal::NoSuchCoordinator { coordinator: coordinator_id(2) };
    assert_eq!(group.apply(&replace(2, 1)), MetadataReceipt::Refused(refusal));
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
    for command in all_commands() {
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

/// What version 2 added, on top of what version 1 left.
#[test]
fn bytes_of_version_2_still_decode_and_are_those_written() {
    let mut group = Group::new();
    commands().iter().for_each(|command| drop(group.apply(command)));
    let mut written = String::new();
    for command in commands_2() {
        let bytes = command.encode();
        writeln!(written, "{}", hex_of(&bytes)).expect("strings take everything");
        assert!(!matches!(group.apply_bytes(&bytes), MetadataReceipt::Refused(_)), "{command:?}");
    }
    assert_eq!(written, COMMANDS_V2);
    let rows = group.state.0.rows(METADATA);
    let moves: String = rows
        .iter()
        .filter(|(key, _)| key.starts_with(b"m"))
        .map(|(key, value)| format!("{} {}\n", hex_of(key), hex_of(value)))
        .collect();
    assert_eq!(moves, ROWS_V2);
}

/// What version 3 added, on top of what the versions before left.
#[test]
fn bytes_of_version_3_still_decode_and_are_those_written() {
    let mut group = Group::new();
    let before = [commands(), commands_2()].concat();
    before.iter().for_each(|command| drop(group.apply(command)));
    let mut written = String::new();
    for command in commands_3() {
        let bytes = command.encode();
        writeln!(written, "{}", hex_of(&bytes)).expect("strings take everything");
        assert!(!matches!(group.apply_bytes(&bytes), MetadataReceipt::Refused(_)), "{command:?}");
    }
    let rows = group.state.0.rows(METADATA);
    let replicas: String = rows
        .iter()
        .filter(|(key, _)| key.starts_with(b"q"))
        .map(|(key, value)| format!("{} {}\n", hex_of(key), hex_of(value)))
        .collect();
    assert_eq!((written.as_str(), replicas.as_str()), (COMMANDS_V3, ROWS_V3));
}

/// What version 4 added, on top of what the versions before left.
#[test]
fn bytes_of_version_4_still_decode_and_are_those_written() {
    let mut group = Group::new();
    let before = [commands(), commands_2(), commands_3()].concat();
    before.iter().for_each(|command| drop(group.apply(command)));
    let rows_before = group.state.0.rows(METADATA);
    let mut written = String::new();
    for command in commands_4() {
        let bytes = command.encode();
        writeln!(written, "{}", hex_of(&bytes)).expect("strings take everything");
        assert!(!matches!(group.apply_bytes(&bytes), MetadataReceipt::Refused(_)), "{command:?}");
        assert_eq!(MetadataCommand::decode(&bytes), Ok(command));
    }
    let rows = group.state.0.rows(METADATA);
    let policies: String = rows
        .iter()
        .filter(|(key, _)| key.starts_with(b"p") && !rows_before.iter().any(|(before, _)| before == key))
        .map(|(key, value)| format!("{} {}\n", hex_of(key), hex_of(value)))
        .collect();
    assert_eq!(MetadataView::load(&group.state.0).expect("version 4"), group.view);
    assert_eq!((written.as_str(), policies.as_str()), (COMMANDS_V4, ROWS_V4));
}

const COMMANDS_V4: &str = include_str!("../../testdata/v4/commands.hex");
const ROWS_V4: &str = include_str!("../../testdata/v4/rows.hex");

const COMMANDS_V3: &str = include_str!("../../testdata/v3/commands.hex");
const ROWS_V3: &str = include_str!("../../testdata/v3/rows.hex");

const COMMANDS_V2: &str = include_str!("../../testdata/v2/commands.hex");
const ROWS_V2: &str = include_str!("../../testdata/v2/rows.hex");

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
    let id = coordinator_id(1);
    check(MetadataCommand::RegisterCoordinator(Coordinator { id, address: String::new() }), "address");
    for number in [0, 6] {
        assert_eq!(CoordinatorId::new(number), None);
        let kind = Some(crate::v1::Kind::RegisterCoordinator(crate::v1::RegisterCoordinatorBytes {
            id: number,
            address: "c:1".to_owned(),
        }));
        let bytes = crate::metadata::row::versioned(&crate::v1::CommandBytes { kind });
        assert_eq!(MetadataCommand::decode(&bytes), Err(DecodeError::Invalid { field: "coordinator" }));
    }
    check(join_at(1, "", 0), "address");
    check(join_at(1, &"a".repeat(257), 0), "address");
    check(MetadataCommand::PlaceShards { nodes: vec![node_id(1); NODES_MAX + 1] }, "nodes");
    assert_eq!(MetadataCommand::decode(&[]), Err(DecodeError::Version { found: 0 }));
    assert_eq!(MetadataCommand::decode(&[5, 0]), Err(DecodeError::Version { found: 5 }));
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
        let commands = all_commands();
        let mut damaged = commands[which.index(commands.len())].encode().to_vec();
        let position = at.index(damaged.len());
        damaged[position] = to;
        group.apply_bytes(&damaged);
        group.apply_bytes(&damaged[..position]);
        prop_assert_eq!(MetadataView::load(&group.state.0).expect("readable"), group.view);
    }
}
