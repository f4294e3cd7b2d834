//! `causeway get`.

use std::io::Write;

use causeway_proto::{
    Kind, manifest, time,
    v1::{Object, object},
};
use clap::{Args, ValueEnum};

use crate::{
    columns::{self, View},
    context::Context,
    error::{CliError, Failures},
    objects::{self, Found, SelectArgs},
    target::Targets,
    watch,
};

/// Options of `causeway get`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
#[command(after_help = "Examples:\n  \
    causeway get pods -o wide\n  \
    causeway get pod web-x7k2p -o yaml\n  \
    causeway get svc,endpoints,nodes\n  \
    causeway get pods -l app=web,!canary --watch\n  \
    causeway get pods -A --field-selector spec.nodeName=node-1\n  \
    causeway get rc/web svc/web -o json")]
pub struct GetArgs {
    /// KIND[,KIND…] [NAME…], KIND/NAME…, or all
    #[arg(required = true, value_name = "KIND NAME")]
    targets: Vec<String>,

    #[command(flatten)]
    pub(crate) select: SelectArgs,

    /// Output format
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Output>,

    /// Go on showing changes, one a line
    #[arg(short, long)]
    watch: bool,

    /// Show changes, but not what is there now
    #[arg(long)]
    pub(crate) watch_only: bool,

    /// With --watch: say what happened to each object (ADDED, MODIFIED, DELETED)
    #[arg(long)]
    pub(crate) output_watch_events: bool,

    /// Show all labels in a last column
    #[arg(long)]
    pub(crate) show_labels: bool,

    /// Leave out the line of column names
    #[arg(long)]
    pub(crate) no_headers: bool,

    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
}

/// How to print objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// A table with more columns
    Wide,
    /// YAML, as in a manifest
    Yaml,
    /// JSON
    Json,
    /// "kind/name" lines
    Name,
}

/// Shows objects.
pub async fn run(context: &Context, args: &GetArgs, out: &mut impl Write) -> Result<(), CliError> {
    let targets = Targets::parse(&args.targets)?;
    if args.watch || args.watch_only {
        return watch::run(context, &targets, args, out).await;
    }
    let mut failures = Failures::default();
    let found = if args.ignore_not_found {
        find_present(context, &targets, args).await?
    } else {
        objects::find(context, &targets, &args.select, &mut failures).await?
    };
    let single = matches!(&targets, Targets::Named(named) if named.len() == 1);
    match args.output {
        None | Some(Output::Wide) => {
            if found.objects.is_empty() && matches!(targets, Targets::Kinds(_)) {
                objects::say_nothing_found(context, &targets.kinds(), args.select.all_namespaces);
            }
            let text = tables(&targets.kinds(), &found.objects, &args.view(), !args.no_headers);
            out.write_all(text.as_bytes()).map_err(CliError::Output)?;
        }
        Some(output) => {
            let text = document(&found, output, single);
            out.write_all(text.as_bytes()).map_err(CliError::Output)?;
        }
    }
    failures.finish()
}

impl GetArgs {
    /// What the tables show.
    pub(crate) fn view(&self) -> View {
        View {
            wide: self.output == Some(Output::Wide),
            namespace: self.select.all_namespaces,
            labels: self.show_labels,
            now: time::now(),
            ..View::default()
        }
    }
}

/// As [`objects::find`], without the objects that are not there.
async fn find_present(context: &Context, targets: &Targets, args: &GetArgs) -> Result<Found, CliError> {
    let Targets::Named(named) = targets else {
        return objects::find(context, targets, &args.select, &mut Failures::default()).await;
    };
    let mut found = Found::default();
    for (kind, name) in named {
        match context
            .client
            .get_object(*kind, context.namespace_of(*kind), name)
            .await
        {
            Ok(object) => found.objects.push(object),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// A block for each kind that has objects; several have their kind before the names, as kubectl prints them.
fn tables(kinds: &[Kind], objects: &[Object], view: &View, with_headers: bool) -> String {
    let view = View {
        kind_prefix: kinds.len() > 1,
        ..view.clone()
    };
    let mut blocks = Vec::new();
    for kind in kinds {
        let mut of_kind: Vec<&Object> = objects.iter().filter(|object| object.kind() == Some(*kind)).collect();
        if *kind == Kind::Event {
            of_kind.sort_by_key(|object| last_seen(object));
        }
        let table = columns::render(*kind, of_kind, &view);
        if !table.is_empty() {
            blocks.push(table.render(with_headers));
        }
    }
    blocks.join("\n")
}

/// When an event was last seen, for order.
fn last_seen(object: &Object) -> (i64, i32) {
    match &object.kind {
        Some(object::Kind::Event(event)) => event
            .last_timestamp
            .or(event.first_timestamp)
            .map_or((0, 0), |time| (time.seconds, time.nanos)),
        _ => (0, 0),
    }
}

/// YAML, JSON or names. One object that was named stands alone, everything else is a list.
fn document(found: &Found, output: Output, single: bool) -> String {
    if output == Output::Name {
        return objects::names(&found.objects);
    }
    let value = match (&found.objects[..], single) {
        ([], true) => return String::new(),
        ([object], true) => manifest::to_json(object),
        (objects, _) => manifest::list_json(objects, &found.resource_version),
    };
    if output == Output::Yaml {
        manifest::value_to_yaml(&value)
    } else {
        format!("{value:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::{
        Resource as _,
        v1::{ObjectMeta, Pod, Service},
    };

    use super::*;

    fn meta(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: name.into(),
            namespace: "default".into(),
            ..Default::default()
        }
    }

    fn objects() -> Vec<Object> {
        let pod = Pod {
            metadata: Some(meta("web")),
            ..Default::default()
        };
        let service = Service {
            metadata: Some(meta("web")),
            ..Default::default()
        };
        vec![pod.into_object(), service.into_object()]
    }

    #[test]
    fn several_kinds_are_printed_in_blocks_with_their_kind() {
        let text = tables(
            &[Kind::Service, Kind::Node, Kind::Pod],
            &objects(),
            &View::default(),
            true,
        );
        insta::assert_snapshot!(text, @r"
        NAME          TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)   AGE
        service/web   ClusterIP   <none>       <none>        <none>    <unknown>

        NAME      READY   STATUS    RESTARTS   AGE
        pod/web   0/0     Pending   0          <unknown>
        ");
    }

    #[test]
    fn one_named_object_stands_alone_and_others_are_a_list() {
        let one = Found {
            objects: objects().split_off(1),
            resource_version: "7".into(),
        };
        let json = |found: &Found, single| {
            serde_json::from_str::<serde_json::Value>(&document(found, Output::Json, single)).unwrap()
        };
        assert_eq!(json(&one, true)["kind"], "Service");
        assert_eq!(json(&one, false)["kind"], "List");
        assert_eq!(json(&one, false)["items"][0]["kind"], "Service");
        assert_eq!(json(&Found::default(), false)["items"], serde_json::json!([]));
        let both = Found {
            objects: objects(),
            resource_version: String::new(),
        };
        assert_eq!(document(&both, Output::Name, false), "pod/web\nservice/web\n");
        assert!(document(&one, Output::Yaml, true).starts_with("apiVersion: v1\nkind: Service\n"));
    }
}
