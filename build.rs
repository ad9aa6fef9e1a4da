//! Compiles the .proto files in Rust (protox), so that building needs no protoc.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/admin.proto", "proto/node.proto", "proto/raft.proto", "proto/state.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors.clone())?;
    // What server reflection serves.
    std::fs::write(out.join("pontoon.fds"), descriptors.encode_to_vec())?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
