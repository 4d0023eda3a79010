//! Compiles the protos with protox, so that no system `protoc` is needed, and keeps their descriptors for reflection.

use std::path::PathBuf;

use prost::Message as _;

const FILES: &[&str] = &[
    "semel/v1/biometric.proto",
    "semel/v1/priority.proto",
    "semel/v1/enrolment.proto",
    "semel/v1/identification.proto",
    "semel/v1/gallery.proto",
    "semel/v1/case.proto",
    "semel/v1/cluster.proto",
    "semel/internal/v1/command.proto",
    "semel/internal/v1/shard.proto",
    "semel/internal/v1/membership.proto",
    "semel/internal/v1/coordinator.proto",
    "semel/internal/v1/raft.proto",
    "semel/internal/v1/snapshot.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=semel");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".semel.internal.v1")
        .skip_debug([
            ".semel.v1.Embedding",
            ".semel.v1.BinaryCode",
            ".semel.internal.v1.CanonicalReference",
            ".semel.internal.v1.Envelope",
            ".semel.internal.v1.SnapshotChunk",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
