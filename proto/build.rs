//! Generates the `causeway.v1` types and the gRPC stubs from the `.proto` files, without `protoc`.

use std::{env, error::Error, path::PathBuf};

use prost_types::{DescriptorProto, FieldDescriptorProto, field_descriptor_proto::Type};

/// Fields that Kubernetes' JSON shows even when they hold the zero value.
const ALWAYS_SHOWN: &[&str] = &[
    "ContainerStatus.ready",
    "ContainerStatus.restart_count",
    "ContainerStateTerminated.exit_code",
    "ReplicationControllerStatus.replicas",
    "Condition.type",
    "Condition.status",
];

/// Messages whose JSON form is not an object with their fields; `src/json/` implements serde for them.
const OWN_JSON: &[&str] = &["Quantity", "IntOrString", "Object"];

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "causeway/v1/meta.proto",
        "causeway/v1/core.proto",
        "causeway/v1/api.proto",
        "causeway/v1/node.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut config = prost_build::Config::new();
    config.btree_map(["."]);
    for file in descriptors.file.iter().filter(|file| file.package() == "causeway.v1") {
        let is_api = ["api.proto", "node.proto"]
            .iter()
            .any(|name| file.name().ends_with(name));
        for message in file
            .message_type
            .iter()
            .filter(|m| !is_api && !OWN_JSON.contains(&m.name()))
        {
            derive_json(&mut config, message);
        }
    }
    std::fs::write(out.join("causeway.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Gives a message serde's derives with Kubernetes' field names: zero values are left out, `null` and absence are the default.
fn derive_json(config: &mut prost_build::Config, message: &DescriptorProto) {
    let path = format!("causeway.v1.{}", message.name());
    config.type_attribute(
        &path,
        "#[derive(serde::Serialize, serde::Deserialize)]\n#[serde(default)]",
    );
    for field in &message.field {
        config.field_attribute(format!("{path}.{}", field.name()), field_attribute(message, field));
    }
}

fn field_attribute(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let mut serde = format!("rename = \"{}\"", field.json_name());
    if field.r#type() == Type::Message && field.type_name() == ".google.protobuf.Timestamp" {
        serde.push_str(", with = \"crate::json::timestamp\"");
    } else {
        serde.push_str(", deserialize_with = \"crate::json::null_is_default\"");
    }
    if !ALWAYS_SHOWN.contains(&format!("{}.{}", message.name(), field.name()).as_str()) {
        serde.push_str(", skip_serializing_if = \"crate::json::is_default\"");
    }
    format!("#[serde({serde})]")
}
