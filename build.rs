//! Compiles the .proto files in Rust (protox), so that building needs no protoc, and derives the JSON of the admin replies.

use std::{collections::BTreeSet, path::PathBuf};

use prost::Message;
use tonic_prost_build::Builder;

/// The package whose replies the command line prints as JSON.
const ADMIN: &str = "pontoon.admin.v1";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/admin.proto", "proto/node.proto", "proto/raft.proto", "proto/state.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // What server reflection serves.
    let encoded = descriptors.encode_to_vec();
    std::fs::write(out.join("pontoon.fds"), &encoded)?;
    let set = prost_types::FileDescriptorSet::decode(encoded.as_slice())?;
    with_json(tonic_prost_build::configure().bytes("."), &set).compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

/// Derives `Serialize` for the replies of the admin service and what is in them. Requests have none: they hold passwords.
/// The rules are in the head of admin.proto; src/wire/json.rs carries them out.
fn with_json(mut builder: Builder, set: &prost_types::FileDescriptorSet) -> Builder {
    let Some(file) = set.file.iter().find(|file| file.package() == ADMIN) else { return builder };
    let full = |name: &str| format!(".{ADMIN}.{name}");
    for kind in &file.enum_type {
        builder = builder
            .enum_attribute(full(kind.name()), "#[derive(serde::Serialize)]")
            .enum_attribute(full(kind.name()), "#[serde(rename_all = \"kebab-case\")]");
    }
    let mut left: Vec<&str> =
        file.service.iter().flat_map(|service| &service.method).map(|method| method.output_type()).collect();
    let mut replies = BTreeSet::new();
    while let Some(name) = left.pop() {
        let Some(message) = file.message_type.iter().find(|message| full(message.name()) == name) else { continue };
        if !replies.insert(name) {
            continue;
        }
        builder = builder.message_attribute(name, "#[derive(serde::Serialize)]");
        for field in &message.field {
            let path = format!("{name}.{}", field.name());
            let optional = if field.proto3_optional() { "optional_" } else { "" };
            if file.enum_type.iter().any(|kind| full(kind.name()) == field.type_name()) {
                let kind = field.type_name().rsplit('.').next().unwrap_or_default();
                let with = format!("crate::wire::json::{optional}name::<{kind}, _>");
                builder = builder.field_attribute(path, format!("#[serde(serialize_with = \"{with}\")]"));
            } else if field.name() == "at_ms" || field.name().ends_with("_at_ms") {
                let short = field.name().trim_end_matches("_ms");
                let with = format!("crate::wire::json::{optional}moment");
                builder = builder
                    .field_attribute(path, format!("#[serde(rename = \"{short}\", serialize_with = \"{with}\")]"));
            } else {
                left.push(field.type_name());
            }
        }
    }
    builder
        // src/wire/redacted.rs implements `Debug` for them, without passwords and tags.
        .skip_debug(["CreateProductRequest", "SetProductRequest", "CreateGroupRequest", "SetGroupRequest"].map(full))
        .skip_debug([".pontoon.node.v1.SecretTags"])
        .field_attribute(full("ShowGroupReply.group"), "#[serde(flatten)]")
        .field_attribute(full("Product.listeners"), "#[serde(skip)]")
}
