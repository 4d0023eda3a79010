//! Bytes that nobody here wrote.

use proptest::prelude::*;
use semel_shard::{Command, REFERENCES_MAX, Receipt, Refusal, Stage};

use crate::world::{World, candidate, id, reference, stage};

fn is_malformed(command: Command) -> bool {
    World::new(1, 8).shards[0].commit(&command.encode()) == Receipt::Refused(Refusal::Malformed)
}

#[test]
fn a_stage_beyond_a_bound_is_malformed() {
    let given = || stage(&id("a"));
    assert!(!is_malformed(Command::Stage(given())));
    for stage in [
        Stage { references: Vec::new(), ..given() },
        Stage { references: vec![reference(); 2], ..given() },
        Stage { references: vec![reference(); REFERENCES_MAX + 1], ..given() },
        Stage { subject_id: "x".repeat(129), ..given() },
        Stage { references: vec![semel_shard::CanonicalReference { quality: Some(101), ..reference() }], ..given() },
        Stage {
            references: vec![semel_shard::CanonicalReference {
                spec: semel_index::TemplateSpec::Embedding { dimension: 8 },
                ..reference()
            }],
            ..given()
        },
        Stage { provenance: semel_shard::Provenance { site: "x".repeat(257), ..Default::default() }, ..given() },
    ] {
        assert!(is_malformed(Command::Stage(stage)));
    }
}

#[test]
fn a_debug_print_of_a_stage_holds_no_template() {
    let printed = format!("{:?}", Command::Stage(stage(&id("a"))));
    let first_component = match &reference().template {
        semel_index::Template::Embedding(embedding) => embedding.components()[0].to_string(),
        semel_index::Template::BinaryCode(_) => panic!("the sample is an embedding"),
    };
    assert!(printed.contains("references") && !printed.contains(&first_component), "{printed}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut versioned = vec![1];
        versioned.extend(&bytes);
        let mut world = World::new(1, 8);
        for bytes in [bytes, versioned] {
            let refused = Command::decode(&bytes).is_err();
            let receipt = world.shards[0].commit(&bytes);
            prop_assert_eq!(refused, receipt == Receipt::Refused(Refusal::Malformed));
        }
    }

    #[test]
    fn altered_commands_never_panic_and_never_break_the_digest(place in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let mut world = World::new(1, 8);
        for name in ["a", "b"] {
            world.stage(&id(name));
        }
        let settle = Command::Settle(world.propose(&id("a"), vec![candidate(&id("b"), 5)]));
        for command in [Command::Stage(stage(&id("c"))), settle] {
            let mut bytes = command.encode().to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            world.shards[0].commit(&bytes);
        }
    }
}
