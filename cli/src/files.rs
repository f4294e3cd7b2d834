//! Manifests named on the command line.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use causeway_proto::{
    Kind,
    manifest::{self, Document},
};

use crate::{
    context::Context,
    error::{CliError, Failures},
};

/// File names with these endings are read from a directory.
const ENDINGS: &[&str] = &["yaml", "yml", "json"];

/// Reads every object of files, directories and standard input ("-"). Every error of every file is reported; one is
/// enough to fail before anything is done with the others.
pub fn read(paths: &[PathBuf], recursive: bool) -> Result<Vec<Document>, CliError> {
    let mut failures = Failures::default();
    let mut documents = Vec::new();
    for path in paths {
        for file in failures.keep(expand(path, recursive)).unwrap_or_default() {
            let read = text(&file).and_then(|text| parse(&file.display().to_string(), &text));
            documents.extend(failures.keep(read).unwrap_or_default());
        }
    }
    failures.finish().map(|()| documents)
}

fn parse(file: &str, text: &str) -> Result<Vec<Document>, CliError> {
    let file = if file == "-" { "standard input" } else { file };
    let documents = manifest::parse_yaml(text).map_err(|errors| CliError::Manifest {
        file: file.to_owned(),
        errors,
    })?;
    if documents.is_empty() {
        Err(CliError::NoObjects(file.to_owned()))
    } else {
        Ok(documents)
    }
}

fn text(file: &Path) -> Result<String, CliError> {
    let read = || {
        if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            return Ok(text);
        }
        fs::read_to_string(file)
    };
    read().map_err(|source| CliError::Read {
        path: file.to_owned(),
        source,
    })
}

/// The files a path means, in order of their names.
fn expand(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, CliError> {
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    collect(path, recursive, &mut files).map_err(|source| CliError::Read {
        path: path.to_owned(),
        source,
    })?;
    if files.is_empty() {
        Err(CliError::NoManifests(path.to_owned()))
    } else {
        Ok(files)
    }
}

fn collect(directory: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if recursive {
                collect(&path, recursive, files)?;
            }
        } else if path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| ENDINGS.contains(&ending))
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Gives an object without a namespace the command's; refuses one of another namespace than was asked for.
pub fn place(context: &Context, mut document: Document) -> Result<Document, CliError> {
    let title = document.object.title();
    if !document.object.kind().is_some_and(Kind::namespaced) {
        return Ok(document);
    }
    let Some(meta) = document.object.meta_mut() else {
        return Ok(document);
    };
    if meta.namespace.is_empty() {
        context.namespace().clone_into(&mut meta.namespace);
        let metadata = document.raw.as_object_mut().and_then(|fields| {
            fields
                .entry("metadata")
                .or_insert_with(|| serde_json::json!({}))
                .as_object_mut()
        });
        if let Some(metadata) = metadata {
            metadata.insert("namespace".to_owned(), context.namespace().into());
        }
    } else if let Some(given) = &context.given_namespace
        && *given != meta.namespace
    {
        let problem = format!(
            "{title} is of namespace \"{}\", but --namespace says \"{given}\"",
            meta.namespace
        );
        return Err(CliError::Usage(problem));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use causeway_proto::client::Client;

    use super::*;

    #[tokio::test]
    async fn objects_without_a_namespace_get_the_one_asked_for() {
        let client = Client::connect("http://127.0.0.1:1").unwrap();
        let context = Context {
            client,
            given_namespace: Some("shop".into()),
        };
        let placed = |text: &str| place(&context, manifest::parse_yaml(text).unwrap().remove(0));
        let document = placed("{apiVersion: v1, kind: Pod, metadata: {name: a}}").unwrap();
        assert_eq!(document.object.key(), "shop/a");
        assert_eq!(document.raw["metadata"]["namespace"], "shop");
        let document = placed("{apiVersion: v1, kind: Node, metadata: {name: a}}").unwrap();
        assert_eq!(document.object.key(), "a");
        let error = placed("{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: b}}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "pod/a is of namespace \"b\", but --namespace says \"shop\""
        );
    }

    #[test]
    fn directories_are_read_in_order_of_their_names() {
        let directory = tempfile::Builder::new().prefix("cw-files-").tempdir().unwrap();
        fs::create_dir(directory.path().join("more")).unwrap();
        for name in ["b.yaml", "a.json", "c.txt", "more/d.yml"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let names = |recursive| {
            let files = expand(directory.path(), recursive).unwrap();
            files
                .iter()
                .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a.json", "b.yaml"]);
        assert_eq!(names(true), ["a.json", "b.yaml", "d.yml"]);
        assert!(matches!(parse("x.yaml", "---\n"), Err(CliError::NoObjects(_))));
    }
}
