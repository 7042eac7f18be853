//! Compiles the `.proto` files without `protoc`: protox parses them, tonic-prost-build writes the Rust.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = ["jobs", "admin", "node", "supervisor", "log"]
        .iter()
        .map(|boundary| format!("gangsaw/{boundary}/v1/{boundary}.proto"))
        .collect();
    println!("cargo::rerun-if-changed=gangsaw");
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
