//! `causeway describe`: one object in detail. Pure functions turn objects and events into [`text::Entry`]s, one file per
//! kind.

mod events;
mod meta;
mod node;
mod pod;
mod replication_controller;
mod service;
#[cfg(test)]
mod tests;
mod text;

use std::io::Write;

use causeway_proto::{
    Kind,
    client::ListOptions,
    manifest, time,
    v1::{Endpoints, Event, Object, ObjectMeta, Pod, object},
};
use clap::Args;
use prost_types::Timestamp;

use self::text::Entry;
use crate::{
    context::Context,
    error::{CliError, Failures},
    objects::{self, SelectArgs},
    target::Targets,
};

/// Options of `causeway describe`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    causeway describe pod web-x7k2p\n  \
    causeway describe svc/web rc/web\n  \
    causeway describe nodes\n  \
    causeway describe pods -l app=web")]
pub struct DescribeArgs {
    /// KIND [NAME…] or KIND/NAME…
    #[arg(required = true, value_name = "KIND NAME")]
    targets: Vec<String>,

    #[command(flatten)]
    select: SelectArgs,

    /// Leave the events out
    #[arg(long)]
    no_events: bool,
}

/// What a description draws on beside the object itself.
#[derive(Debug, Default)]
struct Related {
    events: Vec<Event>,
    /// The endpoints of the same name, for services.
    endpoints: Option<Endpoints>,
    /// The pods on it, for nodes.
    pods: Vec<Pod>,
    now: Timestamp,
}

/// Shows objects in detail.
pub async fn run(context: &Context, args: &DescribeArgs, out: &mut impl Write) -> Result<(), CliError> {
    let targets = Targets::parse(&args.targets)?;
    let mut failures = Failures::default();
    let found = objects::find(context, &targets, &args.select, &mut failures).await?;
    if found.objects.is_empty() && matches!(targets, Targets::Kinds(_)) {
        objects::say_nothing_found(context, &targets.kinds(), args.select.all_namespaces);
    }
    for (position, object) in found.objects.iter().enumerate() {
        let related = related(context, object, !args.no_events).await?;
        let separator = if position > 0 { "\n\n" } else { "" };
        let text = text::render(&describe(object, &related, !args.no_events));
        write!(out, "{separator}{text}").map_err(CliError::Output)?;
    }
    failures.finish()
}

async fn related(context: &Context, object: &Object, with_events: bool) -> Result<Related, CliError> {
    let client = &context.client;
    let meta = object.meta().cloned().unwrap_or_default();
    let mut related = Related {
        now: time::now(),
        ..Related::default()
    };
    if with_events && object.kind() != Some(Kind::Event) {
        // Events about objects of the cluster live in the namespace "default"; the uid finds them anywhere.
        let about = ListOptions::namespace(&meta.namespace).fields(format!("involvedObject.uid={}", meta.uid));
        related.events = client.list::<Event>(&about).await?.items;
    }
    match object.kind() {
        Some(Kind::Service) => match client.get::<Endpoints>(&meta.namespace, &meta.name).await {
            Ok(endpoints) => related.endpoints = Some(endpoints),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        },
        Some(Kind::Node) => {
            let on_it = ListOptions::default().fields(format!("spec.nodeName={}", meta.name));
            related.pods = client.list::<Pod>(&on_it).await?.items;
        }
        _ => {}
    }
    Ok(related)
}

/// The object in detail.
fn describe(object: &Object, related: &Related, with_events: bool) -> Vec<Entry> {
    let mut entries = match &object.kind {
        Some(object::Kind::Pod(inner)) => pod::describe(inner, related),
        Some(object::Kind::Node(inner)) => node::describe(inner, related),
        Some(object::Kind::Service(inner)) => service::describe(inner, related),
        Some(object::Kind::ReplicationController(inner)) => replication_controller::describe(inner, related),
        Some(object::Kind::Endpoints(inner)) => service::describe_endpoints(inner, related),
        // Namespaces, leases and events are their fields.
        _ => generic(object, related),
    };
    if with_events && object.kind() != Some(Kind::Event) {
        entries.push(events::describe(&related.events, &related.now));
    }
    entries
}

/// Metadata, and the other fields as they are in YAML.
fn generic(object: &Object, related: &Related) -> Vec<Entry> {
    let none = ObjectMeta::default();
    let mut entries = meta::describe(object.meta().unwrap_or(&none), related);
    if let serde_json::Value::Object(mut fields) = manifest::to_json(object) {
        for key in ["apiVersion", "kind", "metadata"] {
            fields.remove(key);
        }
        if !fields.is_empty() {
            let yaml = manifest::value_to_yaml(&serde_json::Value::Object(fields));
            entries.extend(yaml.lines().map(Entry::line));
        }
    }
    entries
}
