//! `causeway edit`.

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
    process::Command,
};

use causeway_proto::{manifest, resource::ObjectKey, v1::Object};
use clap::Args;

use crate::{context::Context, error::CliError, target::Targets};

const HELP: &str = "\
# Change the object and save it. Lines that begin with '#' are left out; an unchanged
# or empty file cancels. What is refused is shown again, with the reason here.
#
";

/// Options of `causeway edit`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  causeway edit rc web\n  EDITOR=nano causeway edit svc/web")]
pub struct EditArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, value_name = "KIND NAME")]
    target: Vec<String>,
}

/// Lets an object be changed in an editor, as often as it takes.
pub async fn run(context: &Context, args: &EditArgs, out: &mut impl Write) -> Result<(), CliError> {
    let named = Targets::parse_named(&args.target)?;
    let [(kind, name)] = &named[..] else {
        return Err(CliError::Usage("one object at a time".to_owned()));
    };
    let object = context
        .client
        .get_object(*kind, context.namespace_of(*kind), name)
        .await?;
    let title = object.title();
    let mut session = Session::start(&object)?;
    loop {
        match session.edit(&object)? {
            Edited::Cancelled => {
                eprintln!("Edit cancelled, no changes made.");
                return Ok(());
            }
            Edited::GivenUp(problem) => return Err(CliError::Usage(problem)),
            Edited::Again => {}
            Edited::Changed(changed) => match context.client.update_object(*changed).await {
                Ok(_) => return writeln!(out, "{title} edited").map_err(CliError::Output),
                Err(error) if error.is_unavailable() => return Err(error.into()),
                Err(error) => session.refused(&error.to_string()),
            },
        }
    }
}

enum Edited {
    /// Nothing was changed from the beginning.
    Cancelled,
    /// Nothing was changed since it was refused.
    GivenUp(String),
    /// It cannot be read; the reason is in the text.
    Again,
    /// A changed object of the same name.
    Changed(Box<Object>),
}

/// A file that is edited again and again.
struct Session {
    file: tempfile::TempPath,
    editor: String,
    /// As last shown, without comments.
    shown: String,
    /// Why the last version was refused.
    problem: Option<String>,
}

impl Session {
    fn start(object: &Object) -> Result<Self, CliError> {
        let editor = ["CAUSEWAY_EDITOR", "VISUAL", "EDITOR"]
            .iter()
            .find_map(|name| env::var(name).ok());
        let editor = editor
            .filter(|editor| !editor.is_empty())
            .unwrap_or_else(|| "vi".to_owned());
        let file = tempfile::Builder::new()
            .prefix("causeway-edit-")
            .suffix(".yaml")
            .tempfile();
        let file = file
            .map_err(|source| CliError::Editor {
                editor: editor.clone(),
                source,
            })?
            .into_temp_path();
        Ok(Self {
            file,
            editor,
            shown: manifest::to_yaml(object),
            problem: None,
        })
    }

    fn edit(&mut self, original: &Object) -> Result<Edited, CliError> {
        let text = self.round().map_err(|source| CliError::Editor {
            editor: self.editor.clone(),
            source,
        })?;
        if text.trim().is_empty() || text == self.shown {
            return Ok(match self.problem.take() {
                Some(problem) if !text.trim().is_empty() => Edited::GivenUp(problem),
                _ => Edited::Cancelled,
            });
        }
        self.shown = text;
        match read(&self.shown, original) {
            Ok(changed) => Ok(Edited::Changed(changed)),
            Err(problem) => {
                self.refused(&problem);
                Ok(Edited::Again)
            }
        }
    }

    fn refused(&mut self, problem: &str) {
        self.problem = Some(problem.to_owned());
    }

    /// Shows the text in the editor; answers it as it was saved, without comments.
    fn round(&self) -> io::Result<String> {
        let reason = self
            .problem
            .iter()
            .flat_map(|problem| problem.lines())
            .map(|line| format!("# {line}\n"));
        let text: String = [HELP.to_owned()]
            .into_iter()
            .chain(reason)
            .chain([self.shown.clone()])
            .collect();
        fs::write(&self.file, text)?;
        run_editor(&self.editor, &self.file)?;
        Ok(without_comments(&fs::read_to_string(&self.file)?))
    }
}

/// The command may have arguments of its own, so a shell splits it.
fn run_editor(editor: &str, file: &Path) -> io::Result<()> {
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg(editor)
        .arg(file)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("it ended with {status}")))
    }
}

fn without_comments(text: &str) -> String {
    text.split_inclusive('\n')
        .filter(|line| !line.starts_with('#'))
        .collect()
}

/// The one object in the text, which must still be the same.
fn read(text: &str, original: &Object) -> Result<Box<Object>, String> {
    let documents = manifest::parse_yaml(text).map_err(|errors| errors.to_string())?;
    let [document] = &documents[..] else {
        return Err("there must be one object".to_owned());
    };
    let (Some(was), Some(is)) = (ObjectKey::of(original), ObjectKey::of(&document.object)) else {
        return Err("the object has no name".to_owned());
    };
    if was == is {
        Ok(Box::new(document.object.clone()))
    } else {
        Err(format!("{was} cannot become {is}"))
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::{
        Resource as _,
        v1::{ObjectMeta, Pod},
    };

    use super::*;

    fn pod() -> Object {
        let metadata = ObjectMeta {
            name: "web".into(),
            namespace: "default".into(),
            ..Default::default()
        };
        Pod {
            metadata: Some(metadata),
            ..Default::default()
        }
        .into_object()
    }

    fn session(editor: &str) -> Session {
        let mut session = Session::start(&pod()).unwrap();
        editor.clone_into(&mut session.editor);
        session
    }

    #[test]
    fn a_change_is_read() {
        let mut session = session("sed -i 's/^  name: web/&\\n  labels: {a: b}/'");
        let Edited::Changed(changed) = session.edit(&pod()).unwrap() else {
            panic!("not changed")
        };
        assert_eq!(changed.meta().unwrap().labels["a"], "b");
    }

    #[test]
    fn an_unchanged_file_cancels() {
        assert!(matches!(session("true").edit(&pod()).unwrap(), Edited::Cancelled));
        assert!(matches!(
            session("truncate -s 0").edit(&pod()).unwrap(),
            Edited::Cancelled
        ));
    }

    #[test]
    fn what_cannot_be_read_is_shown_again_with_the_reason_until_one_gives_up() {
        let mut session = session("sed -i 's/^metadata:/&\\n  nam: x/'");
        assert!(matches!(session.edit(&pod()).unwrap(), Edited::Again));
        session.editor = "grep -q '^# .*metadata.nam: unknown field'".to_owned();
        let Edited::GivenUp(problem) = session.edit(&pod()).unwrap() else {
            panic!("not given up")
        };
        assert!(problem.contains("did you mean \"name\"?"));
    }

    #[test]
    fn another_object_is_refused() {
        let mut session = session("sed -i 's/name: web/name: db/'");
        assert!(matches!(session.edit(&pod()).unwrap(), Edited::Again));
        assert_eq!(
            session.problem.as_deref(),
            Some("Pod default/web cannot become Pod default/db")
        );
    }

    #[test]
    fn a_failing_editor_is_an_error() {
        assert!(matches!(session("false").edit(&pod()), Err(CliError::Editor { .. })));
    }
}
