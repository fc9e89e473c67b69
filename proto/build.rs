//! Compiles every .proto of this room into Rust types and one descriptor set, without protoc.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost::Message;

/// Messages that carry a key or a token. `src/redacted.rs` writes their `Debug`, without the secret.
/// What is nested in one of them is meant too.
const SECRET_BEARERS: [&str; 13] = [
    ".X509SVID",
    ".JWTSVID",
    ".WITSVID",
    ".ValidateJWTSVIDRequest",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JoinToken",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".spire.api.server.agent.v1.AttestAgentRequest",
    ".vouchsafe.server.v1.BackupRequest",
    ".vouchsafe.run.v1.NewRunJWTSVIDResponse",
    ".vouchsafe.launch.v1.LaunchRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let room = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo names no package folder")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no output folder")?);

    let mut files = vec![room.join("workload.proto")];
    for tree in ["spire", "vouchsafe"] {
        println!("cargo:rerun-if-changed={tree}");
        collect(&room.join(tree), &mut files)?;
    }
    println!("cargo:rerun-if-changed=workload.proto");
    println!("cargo:rerun-if-changed=build.rs");
    files.sort();

    let mut compiler = protox::Compiler::new([&room])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;
    let mut descriptors = compiler.file_descriptor_set();

    tonic_prost_build::configure()
        .out_dir(&out)
        .btree_map(".")
        .skip_debug(SECRET_BEARERS)
        // Most changes are much smaller.
        .boxed(".vouchsafe.sync.v1.Change.kind.class_put")
        .compile_fds(descriptors.clone())?;

    // Comments stay out of what the daemons carry along.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}

/// Adds every .proto file under `folder`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
