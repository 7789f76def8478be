//! Generates the gRPC code from `proto/` without an installed protoc.

use prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");

    let mut files = Vec::new();
    for entry in fs::read_dir("proto/yeta/v1")? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    // One order on every machine, so that the same sources give the same bytes.
    files.sort();

    // Source information carries the comments: into the Rust documentation, and
    // into what reflection tells a client.
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("yeta_descriptor.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        // `raw_json` is handed on without a copy.
        .bytes(".yeta.v1")
        // Written by hand: an event is encoded once for all of its readers.
        .extern_path(
            ".yeta.v1.SubscribePushesResponse",
            "crate::proto::SubscribePushesResponse",
        )
        // And a page of calls is sent as it is kept.
        .extern_path(
            ".yeta.v1.ListCallsResponse",
            "crate::proto::ListCallsResponse",
        )
        .compile_fds(descriptors)?;
    Ok(())
}
