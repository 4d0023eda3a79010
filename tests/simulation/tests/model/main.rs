//! Stage, search, settle as a model, checked in every state that it can reach.

mod apply;
mod cluster;
mod driver;
mod names;
mod obligation;
mod properties;
mod protocol;
mod steps;

use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _};

use cluster::Faults;
use names::{Mate, MateSet, Shard};
use properties::*;
use protocol::{Mutant, Protocol};

fn protocol(homes: &[u8], shards: u8, faults: (u8, u8, u8)) -> Protocol {
    let (drivers_lost, drivers_raced, shards_cut) = faults;
    let faults = Faults { drivers_lost, drivers_raced, shards_cut };
    Protocol {
        homes: homes.iter().copied().map(Shard).collect(),
        shards,
        faults,
        withdrawable: MateSet::NONE,
        mutant: None,
    }
}

fn check(protocol: Protocol) {
    let t = std::time::Instant::now();
    let (mates, shards) = (protocol.homes.len(), protocol.shards);
    let (homes, faults, w) = (protocol.homes.clone(), protocol.faults, protocol.withdrawable);
    let checker = protocol.checker().spawn_dfs().join();
    println!(
        "{mates} mates x {shards} shards: {} states, {} gen, depth {} {:?} {:?} {:?} {w:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        t.elapsed(), homes.iter().map(|h|h.0).collect::<Vec<_>>(), faults
    );
    assert!(checker.is_done());
    let discoveries = checker.discoveries();
    for property in checker.model().properties() {
        let d = discoveries.get(property.name);
        match property.expectation {
            Expectation::Always | Expectation::Eventually => {
                if let Some(path) = d { panic!("{} {:#?} {:#?}", property.name, path.clone().into_actions(), path.last_state()); }
            }
            Expectation::Sometimes => if d.is_none() { println!("NEVER {}", property.name) },
        }
    }
}

#[test]
fn explore() {
    let spec = std::env::var("SPEC").unwrap();
    for one in spec.split(';') {
        let f: Vec<&str> = one.split(',').collect();
        let homes: Vec<u8> = f[0].bytes().map(|b| b - b'0').collect();
        let n = |s: &str| s.parse::<u8>().unwrap();
        let mut p = protocol(&homes, n(f[1]), (n(f[2]), n(f[3]), n(f[4])));
        p.withdrawable = f[5].bytes().map(|b| Mate(b - b'0')).collect();
        check(p);
    }
}
