//! Who installs a snapshot keeps its term, its vote, what it knows to be committed, and what it has acknowledged of the same log.

use super::ensure;
use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    for installed in history.watched.iter().flat_map(|watched| &watched.installed) {
        let (before, after) = (&installed.before, &installed.after);
        let who = || format!("a replica of group {} that installed a snapshot", installed.group);
        ensure!(after.term >= before.term, "{} went back from term {} to {}", who(), before.term, after.term);
        ensure!(
            after.term > before.term || before.vote == after.vote,
            "{} forgot its vote for {} in term {}",
            who(),
            before.vote,
            before.term
        );
        ensure!(after.commit >= before.commit, "{} went back to commit {}", who(), after.commit);
        let same_log = before.terms.get(&after.commit).is_some_and(|term| after.terms.get(&after.commit) == Some(term));
        let ends = [before, after].map(|promises| promises.terms.last_key_value().map(|(index, _)| *index));
        ensure!(!same_log || ends[1] >= ends[0], "{} lost entries: {:?} became {:?}", who(), ends[0], ends[1]);
    }
    Ok(())
}
