//! The cores in one thread, under faults. The protocol as a model that is checked exhaustively lives in `tests/model`.

#![forbid(unsafe_code)]
