//! What an image says about the process to run from it.

use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

/// The unpacked layers of an image, as overlayfs lower directories.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rootfs {
    /// Directory the layers are named relative to.
    pub base: PathBuf,
    /// Lower directories relative to `base`, uppermost first.
    pub layers: Vec<String>,
}

/// The parts of an OCI image configuration that matter for running it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, replaced by a pod's `args`.
    pub cmd: Vec<String>,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// Signal that asks it to stop ("SIGTERM", "15"); empty for SIGTERM.
    pub stop_signal: String,
}

impl From<&ImageConfiguration> for ImageConfig {
    fn from(configuration: &ImageConfiguration) -> Self {
        let Some(config) = configuration.config() else {
            return Self::default();
        };
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let variable = |text: String| {
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            (name.to_owned(), value.to_owned())
        };
        Self {
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            env: list(config.env()).into_iter().map(variable).collect(),
            user: text(config.user()),
            working_dir: text(config.working_dir()),
            stop_signal: text(config.stop_signal()),
        }
    }
}

impl ImageConfig {
    /// The command line for a container with this `command` and these `args`, as Kubernetes defines it: `command` replaces the
    /// entry point and, unless `args` are given, drops the image's arguments; `args` replace the image's arguments.
    /// Empty when neither the pod nor the image says what to run.
    pub fn argv(&self, command: &[String], args: &[String]) -> Vec<String> {
        let (program, rest) = match (command.is_empty(), args.is_empty()) {
            (true, true) => (&self.entrypoint[..], &self.cmd[..]),
            (true, false) => (&self.entrypoint[..], args),
            (false, _) => (command, args),
        };
        program.iter().chain(rest).cloned().collect()
    }

    /// The image's environment overlaid with the pod's: a variable of the pod replaces the image's.
    pub fn environment(&self, pod: &[(String, String)]) -> Vec<(String, String)> {
        let kept = self
            .env
            .iter()
            .filter(|(name, _)| pod.iter().all(|(other, _)| other != name));
        kept.chain(pod).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn command_and_args_override_as_kubernetes_says() {
        let image = ImageConfig {
            entrypoint: strings(&["/ep"]),
            cmd: strings(&["a", "b"]),
            ..ImageConfig::default()
        };
        for (command, args, want) in [
            (&[][..], &[][..], &["/ep", "a", "b"][..]),
            (&[], &["x"], &["/ep", "x"]),
            (&["/c"], &[], &["/c"]),
            (&["/c"], &["x"], &["/c", "x"]),
        ] {
            assert_eq!(image.argv(&strings(command), &strings(args)), strings(want));
        }
        assert!(ImageConfig::default().argv(&[], &[]).is_empty());
    }

    #[test]
    fn the_pods_variables_replace_the_images() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let image = ImageConfig {
            env: vec![pair("PATH", "/bin"), pair("A", "1")],
            ..ImageConfig::default()
        };
        let got = image.environment(&[pair("A", "2"), pair("B", "3")]);
        assert_eq!(got, [pair("PATH", "/bin"), pair("A", "2"), pair("B", "3")]);
    }
}
