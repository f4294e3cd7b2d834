//! The shape of every message in JSON, read from the API's own descriptors.

use std::{collections::BTreeMap, sync::LazyLock};

use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// What a field's JSON must be.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Shape {
    /// An object with the fields of the message of that name.
    Message(String),
    List(Box<Shape>),
    /// An object with any keys.
    Map(Box<Shape>),
    Text,
    Boolean,
    Int32,
    Int64,
    Quantity,
    IntOrString,
    Time,
}

/// Fields by their JSON name.
pub(super) type Fields = BTreeMap<String, Shape>;

/// The fields of a message of the API, by its plain name (`PodSpec`).
pub(super) fn fields(message: &str) -> Option<&'static Fields> {
    static SCHEMA: LazyLock<BTreeMap<String, Fields>> = LazyLock::new(read);
    SCHEMA.get(message)
}

fn read() -> BTreeMap<String, Fields> {
    let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).expect("the build wrote it");
    let ours = set.file.iter().filter(|file| file.package() == "causeway.v1");
    ours.flat_map(|file| &file.message_type)
        .map(|message| (message.name().to_owned(), message_fields(message)))
        .collect()
}

fn message_fields(message: &DescriptorProto) -> Fields {
    let shape = |field: &FieldDescriptorProto| {
        let entry = message.nested_type.iter().find(|nested| {
            let is_map = nested
                .options
                .as_ref()
                .is_some_and(prost_types::MessageOptions::map_entry);
            is_map && plain_name(field.type_name()) == nested.name()
        });
        if let Some(value) = entry.and_then(|entry| entry.field.iter().find(|field| field.name() == "value")) {
            return Some(Shape::Map(Box::new(single(value)?)));
        }
        let single = single(field)?;
        Some(if field.label() == Label::Repeated {
            Shape::List(Box::new(single))
        } else {
            single
        })
    };
    message
        .field
        .iter()
        .filter_map(|field| Some((field.json_name().to_owned(), shape(field)?)))
        .collect()
}

/// The shape of one value; `None` for types that no kind uses.
fn single(field: &FieldDescriptorProto) -> Option<Shape> {
    Some(match field.r#type() {
        Type::String => Shape::Text,
        Type::Bool => Shape::Boolean,
        Type::Int32 => Shape::Int32,
        Type::Int64 => Shape::Int64,
        Type::Message => match field.type_name() {
            ".google.protobuf.Timestamp" => Shape::Time,
            ".causeway.v1.Quantity" => Shape::Quantity,
            ".causeway.v1.IntOrString" => Shape::IntOrString,
            name => Shape::Message(plain_name(name).to_owned()),
        },
        _ => return None,
    })
}

fn plain_name(full: &str) -> &str {
    full.rsplit('.').next().unwrap_or(full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn every_message_below_a_kind_is_known_with_all_its_fields() {
        let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).expect("the build wrote it");
        let declared = |name: &str| {
            let all = set.file.iter().flat_map(|file| &file.message_type);
            all.filter(|message| message.name() == name)
                .map(|message| message.field.len())
                .sum::<usize>()
        };
        let mut pending: Vec<String> = Kind::ALL.iter().map(|kind| kind.name().to_owned()).collect();
        let mut seen = Vec::new();
        while let Some(name) = pending.pop() {
            if seen.contains(&name) {
                continue;
            }
            let fields = fields(&name).unwrap_or_else(|| panic!("{name} is not known"));
            assert_eq!(
                fields.len(),
                declared(&name),
                "{name} has a field of a type that is not handled"
            );
            for shape in fields.values() {
                match shape {
                    Shape::Message(inner) => pending.push(inner.clone()),
                    Shape::List(inner) | Shape::Map(inner) => {
                        if let Shape::Message(inner) = &**inner {
                            pending.push(inner.clone());
                        }
                    }
                    _ => {}
                }
            }
            seen.push(name);
        }
        assert!(seen.contains(&"ContainerStateTerminated".to_owned()));
    }

    #[test]
    fn names_are_those_of_kubernetes_json() {
        let names = |message| fields(message).expect("known").keys().cloned().collect::<Vec<_>>();
        assert!(names("PodStatus").contains(&"podIPs".to_owned()));
        assert!(names("NodeSpec").contains(&"podCIDR".to_owned()));
        assert!(names("Container").contains(&"readinessProbe".to_owned()));
        assert_eq!(
            fields("Service").expect("known")["spec"],
            Shape::Message("ServiceSpec".into())
        );
        assert_eq!(
            fields("ObjectMeta").expect("known")["labels"],
            Shape::Map(Box::new(Shape::Text))
        );
    }
}
