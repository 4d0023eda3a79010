//! A network made for one scenario: a bridge, and on it a namespace for each server, with rules that cut, lose and slow down packets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::machine::{Refused, command, ours};

/// Addresses set aside for tests of networks (RFC 2544); the third number is one that no other network here has.
const NET: [u8; 2] = [198, 18];
/// The address of this process on the bridge.
const OWN: u8 = 254;
/// The table of rules in every namespace.
const TABLE: &str = "inet faults";

/// A bridge with namespaces, counted from 0. Dropping it removes them.
pub(crate) struct Network {
    net: u8,
    namespaces: usize,
    /// Packets that rules dropped, of rules that are gone.
    dropped: AtomicU64,
    /// Packets that a slow link held back, of links that are fast again.
    held_back: AtomicU64,
}

impl Network {
    /// Makes the network, or says why it cannot be made here.
    pub(crate) fn new(namespaces: usize) -> Result<Self, Refused> {
        let net = free_net()?;
        let network = Self { net, namespaces, dropped: AtomicU64::new(0), held_back: AtomicU64::new(0) };
        // Where this is refused nothing of it can be made here; whatever fails later is a defect of the suite.
        command(&["ip", "netns", "add", &namespace(0)])?;
        (1..namespaces).for_each(|number| made(&["ip", "netns", "add", &namespace(number)]));
        let bridge = bridge();
        made(&["ip", "link", "add", &bridge, "type", "bridge"]);
        made(&["ip", "link", "set", &bridge, "up"]);
        made(&["ip", "addr", "add", &format!("{}/24", network.host(OWN)), "dev", &bridge]);
        for number in 0..namespaces {
            let (name, link) = (namespace(number), link(number));
            made(&["ip", "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name]);
            made(&["ip", "link", "set", &link, "master", &bridge, "up"]);
            let address = format!("{}/24", network.address(number));
            made(&["ip", "-n", &name, "addr", "add", &address, "dev", "eth0"]);
            made(&["ip", "-n", &name, "link", "set", "lo", "up"]);
            made(&["ip", "-n", &name, "link", "set", "eth0", "up"]);
        }
        Ok(network)
    }

    /// The address in a namespace.
    pub(crate) fn address(&self, number: usize) -> IpAddr {
        self.host(number as u8 + 1)
    }

    fn host(&self, host: u8) -> IpAddr {
        Ipv4Addr::new(NET[0], NET[1], self.net, host).into()
    }

    /// What is to be run in front of a command so that it runs in a namespace. It becomes the command.
    pub(crate) fn prefix(number: usize) -> Vec<String> {
        ["ip", "netns", "exec", &namespace(number)].map(str::to_owned).to_vec()
    }

    /// The processes that run in a namespace.
    pub(crate) fn processes(number: usize) -> Vec<u32> {
        let listed = command(&["ip", "netns", "pids", &namespace(number)]).unwrap_or_default();
        listed.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Drops packets from some namespaces to one, and no others: the other direction stays.
    pub(crate) fn cut(&self, from: &[usize], to: usize) {
        let from: Vec<String> = from.iter().map(|&number| self.address(number).to_string()).collect();
        let rule = format!("add rule {TABLE} in ip saddr {{ {} }} counter drop", from.join(", "));
        self.rules(to, &["add chain inet faults in { type filter hook input priority 0; }", &rule]);
    }

    /// Drops everything between the namespaces of one side and those of the other.
    pub(crate) fn split(&self, one: &[usize], other: &[usize]) {
        one.iter().for_each(|&number| self.cut(other, number));
        other.iter().for_each(|&number| self.cut(one, number));
    }

    /// Loses a share of the packets that leave a namespace.
    pub(crate) fn lose(&self, number: usize, percent: u32) {
        let rule = format!("add rule {TABLE} out oifname eth0 numgen random mod 100 < {percent} counter drop");
        self.rules(number, &["add chain inet faults out { type filter hook output priority 0; }", &rule]);
    }

    /// Sends so many kilobits per second out of a namespace; up to 400 ms of them wait, more are dropped.
    pub(crate) fn slow_down(&self, number: usize, kbits: u32) {
        let rate = format!("{kbits}kbit");
        let queue =
            ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "16kb", "latency", "400ms"];
        self.within(number, &queue).expect("a queue can be put before a link");
    }

    /// Removes every rule and queue. Connections that broke meanwhile stay broken.
    pub(crate) fn heal(&self) {
        for number in 0..self.namespaces {
            // There is no table where nothing was cut.
            if let Ok(rules) = self.within(number, &["nft", "list", "table", "inet", "faults"]) {
                self.dropped.fetch_add(numbers_after(&rules, "packets").sum(), Ordering::Relaxed);
                self.within(number, &["nft", "delete", "table", "inet", "faults"]).expect("a table can be deleted");
            }
            let queue = self.within(number, &["tc", "-s", "qdisc", "show", "dev", "eth0"]).expect("links can be shown");
            if queue.contains("tbf") {
                self.held_back.fetch_add(numbers_after(&queue, "overlimits").sum(), Ordering::Relaxed);
                self.within(number, &["tc", "qdisc", "del", "dev", "eth0", "root"]).expect("a queue can be removed");
            }
        }
    }

    /// Packets dropped by rules that are gone.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How often a packet had to wait on a link that is fast again.
    pub(crate) fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    fn rules(&self, number: usize, rules: &[&str]) {
        let rules = [&["add table inet faults"], rules].concat().join("; ");
        self.within(number, &["nft", &rules]).expect("rules can be added");
    }

    fn within(&self, number: usize, arguments: &[&str]) -> Result<String, Refused> {
        let prefix = Self::prefix(number);
        let prefix = prefix.iter().map(String::as_str);
        command(&prefix.chain(arguments.iter().copied()).collect::<Vec<_>>())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The network may have been made in part only. A namespace is gone some time after it was removed, and its links with it:
        // they are removed first, so that the next network can have their names.
        for number in 0..self.namespaces {
            let _ = command(&["ip", "link", "del", &link(number)]);
            let _ = command(&["ip", "netns", "del", &namespace(number)]);
        }
        let _ = command(&["ip", "link", "del", &bridge()]);
    }
}

/// A net that is not in use: two runs at once would otherwise hear each other's clients.
fn free_net() -> Result<u8, Refused> {
    let taken = command(&["ip", "-4", "-o", "addr", "show"])?;
    let first = (std::process::id() % 256) as u8;
    let mut nets = (0..=u8::MAX).map(|next| first.wrapping_add(next));
    let free = nets.find(|net| !taken.contains(&format!(" {}.{}.{net}.", NET[0], NET[1])));
    free.ok_or_else(|| Refused("every net is taken".to_owned()))
}

fn made(arguments: &[&str]) {
    command(arguments).unwrap_or_else(|refused| panic!("{refused}"));
}

fn link(number: usize) -> String {
    format!("{}v{number}", ours("smf"))
}

fn bridge() -> String {
    format!("{}b", ours("smf"))
}

fn namespace(number: usize) -> String {
    format!("{}-{number}", ours("semel-faults-"))
}

/// The numbers that follow a word in what a tool printed.
fn numbers_after<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = u64> + 'a {
    let words = text.split([' ', '\n', '\t', ',', ')']).filter(|word| !word.is_empty());
    let next = words.clone().skip(1);
    words.zip(next).filter(move |(one, _)| *one == word).filter_map(|(_, number)| number.parse().ok())
}
