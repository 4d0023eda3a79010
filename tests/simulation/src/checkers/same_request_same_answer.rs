//! An enrolment id belongs to one content, and a verdict once told or recorded stays as it is: later rounds, withdrawals and
//! cases only append.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::{Content, History, Key, VerdictSeen};

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut contents: BTreeMap<&Key, Content> = BTreeMap::new();
    for told in history.records_told() {
        let Some(content) = told.content else { continue };
        let first = *contents.entry(told.key).or_insert(content);
        ensure!(first == content, "{} was acknowledged for two contents", told.key);
    }
    let mut known: BTreeMap<(&Key, u32), &VerdictSeen> = BTreeMap::new();
    for (key, verdict) in history.verdicts() {
        let first = *known.entry((key, verdict.round)).or_insert(verdict);
        ensure!(first == verdict, "{key} has two verdicts of round {}: {first:?} and {verdict:?}", verdict.round);
    }
    Ok(())
}
