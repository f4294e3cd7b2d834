//! `causeway get --watch`: changes as rows, for as long as one looks, also while the control plane restarts.

use std::{collections::BTreeMap, io::Write};

use causeway_proto::{
    Kind,
    client::{Change, Watcher},
    manifest,
    selector::FieldSelector,
    time,
    v1::Object,
};
use serde_json::json;

use crate::{
    columns::{self, View},
    context::Context,
    error::CliError,
    get::{GetArgs, Output},
    objects,
    table::Layout,
    target::Targets,
};

/// Shows objects and their changes until it is interrupted.
pub async fn run(context: &Context, targets: &Targets, args: &GetArgs, out: &mut impl Write) -> Result<(), CliError> {
    let (kind, mut options) = match (&targets.kinds()[..], targets) {
        ([kind], Targets::Kinds(_)) => (*kind, args.select.options(context, *kind)?),
        ([kind], Targets::Named(named)) if named.len() == 1 && !args.select.selects() => {
            (*kind, args.select.options(context, *kind)?)
        }
        _ => return Err(CliError::Usage("--watch follows one kind, or one object".to_owned())),
    };
    if let Targets::Named(named) = targets {
        // A name that is not there now is an error, as without --watch.
        let (_, name) = &named[0];
        context
            .client
            .get_object(kind, context.namespace_of(kind), name)
            .await?;
        options = options.fields(FieldSelector::equals("metadata.name", name));
    }
    let mut watcher = Watcher::new(context.client.clone(), kind, options);
    let mut known = Known::default();
    let mut printer = Printer::new(kind, args);
    let mut away = false;
    loop {
        let change = watcher.next().await;
        if let Change::Interrupted(error) = change {
            // Before anything was shown there is nothing to keep up.
            if !known.complete
                && let Some(error) = error
            {
                return Err(error.into());
            }
            if !away && let Some(error) = error {
                eprintln!("watch interrupted: {error}; trying again");
                away = true;
            }
            continue;
        }
        if away {
            eprintln!("watch resumed");
            away = false;
        }
        let first = !known.complete;
        let seen = known.take(change);
        if !(first && args.watch_only) {
            printer.print(&seen, out)?;
        }
    }
}

/// What happened to an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Happened {
    Added,
    Modified,
    Deleted,
}

impl Happened {
    const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// The objects shown so far, to tell what a new complete list changed.
#[derive(Default)]
struct Known {
    objects: BTreeMap<String, Object>,
    complete: bool,
}

impl Known {
    fn take(&mut self, change: Change) -> Vec<(Happened, Object)> {
        match change {
            Change::Applied(object) => self.put(object).into_iter().collect(),
            Change::Deleted(object) => {
                self.objects.remove(&object.key());
                vec![(Happened::Deleted, object)]
            }
            Change::Replaced(objects) => {
                self.complete = true;
                let mut before = std::mem::take(&mut self.objects);
                let mut seen = Vec::new();
                for object in objects {
                    if let Some(old) = before.remove(&object.key()) {
                        self.objects.insert(old.key(), old);
                    }
                    seen.extend(self.put(object));
                }
                let gone = before.into_values().map(|object| (Happened::Deleted, object));
                gone.chain(seen).collect()
            }
            Change::Bookmark | Change::Interrupted(_) => Vec::new(),
        }
    }

    /// What is new about an object; `None` when nothing is.
    fn put(&mut self, object: Object) -> Option<(Happened, Object)> {
        match self.objects.insert(object.key(), object.clone()) {
            None => Some((Happened::Added, object)),
            Some(old) if old == object => None,
            Some(_) => Some((Happened::Modified, object)),
        }
    }
}

/// Prints rows that stay aligned with the first ones.
struct Printer<'a> {
    kind: Kind,
    args: &'a GetArgs,
    layout: Layout,
    headers_due: bool,
}

impl<'a> Printer<'a> {
    fn new(kind: Kind, args: &'a GetArgs) -> Self {
        Self {
            kind,
            args,
            layout: Layout::default(),
            headers_due: !args.no_headers,
        }
    }

    fn print(&mut self, seen: &[(Happened, Object)], out: &mut impl Write) -> Result<(), CliError> {
        if seen.is_empty() {
            return Ok(());
        }
        let text = match self.args.output {
            None | Some(Output::Wide) => self.rows(seen),
            Some(Output::Name) => objects::names(seen.iter().map(|(_, object)| object)),
            Some(output) => seen
                .iter()
                .map(|(happened, object)| self.document(*happened, object, output))
                .collect(),
        };
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(CliError::Output)
    }

    fn rows(&mut self, seen: &[(Happened, Object)]) -> String {
        let view = View {
            event: self.args.output_watch_events,
            now: time::now(),
            ..self.args.view()
        };
        let mut table = columns::table(self.kind, &view);
        for (happened, object) in seen {
            let mut object = object.clone();
            if *happened == Happened::Deleted
                && let Some(meta) = object.meta_mut()
            {
                // Also what was removed at once shows in its last row that it is gone.
                meta.deletion_timestamp.get_or_insert(view.now);
            }
            if let Some(row) = columns::row(&object, happened.name(), &view) {
                table.push(row);
            }
        }
        let headers = std::mem::take(&mut self.headers_due);
        self.layout.render(&table, headers)
    }

    /// One line of JSON, or one document of YAML.
    fn document(&self, happened: Happened, object: &Object, output: Output) -> String {
        let mut value = manifest::to_json(object);
        if self.args.output_watch_events {
            value = json!({"type": happened.name(), "object": value});
        }
        if output == Output::Yaml {
            format!("---\n{}", manifest::value_to_yaml(&value))
        } else {
            format!("{value}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::{
        Resource as _,
        v1::{ObjectMeta, Pod},
    };

    use super::*;

    fn pod(name: &str, revision: &str) -> Object {
        let metadata = ObjectMeta {
            name: name.into(),
            resource_version: revision.into(),
            ..Default::default()
        };
        Pod {
            metadata: Some(metadata),
            ..Default::default()
        }
        .into_object()
    }

    fn names(seen: &[(Happened, Object)]) -> Vec<(Happened, String)> {
        seen.iter()
            .map(|(happened, object)| (*happened, object.key()))
            .collect()
    }

    #[test]
    fn a_new_list_shows_only_what_it_changed() {
        let mut known = Known::default();
        let first = known.take(Change::Replaced(vec![pod("a", "1"), pod("b", "2"), pod("c", "3")]));
        assert_eq!(first.len(), 3);
        assert!(known.take(Change::Applied(pod("a", "1"))).is_empty(), "seen before");
        let again = known.take(Change::Replaced(vec![pod("a", "1"), pod("c", "5"), pod("d", "6")]));
        let expected = [
            (Happened::Deleted, "b"),
            (Happened::Modified, "c"),
            (Happened::Added, "d"),
        ];
        assert_eq!(
            names(&again),
            expected.map(|(happened, name)| (happened, name.to_owned()))
        );
        let gone = known.take(Change::Deleted(pod("d", "7")));
        assert_eq!(names(&gone), [(Happened::Deleted, "d".to_owned())]);
    }
}
