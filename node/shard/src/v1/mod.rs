//! Version 1 of the bytes of commands and rows. Never edited once a release wrote them: a new shape is a new version
//! beside this one. What the fields mean and which values are valid lives in `encoding`.

pub(crate) mod command;
pub(crate) mod part;
pub(crate) mod row;
