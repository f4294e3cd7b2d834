//! A container's environment and command line: downward API fields and `$(VAR)` references.

use std::{collections::BTreeMap, net::IpAddr};

use causeway_proto::v1::{Container, EnvVar, Pod};

/// What the node knows about a pod that its manifest does not say.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// `status.podIPs`; the first is `status.podIP`.
    pub pod_ips: &'a [IpAddr],
    /// `status.hostIPs`; the first is `status.hostIP`.
    pub host_ips: &'a [IpAddr],
}

/// A container's environment cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// The field path is not one of those the API names.
    #[error("env {name}: field path \"{path}\" is not supported")]
    UnknownField {
        /// Variable.
        name: String,
        /// Its field path.
        path: String,
    },
}

/// The variables of `container`, in order, with references to earlier variables replaced.
pub fn environment(pod: &Pod, container: &Container, facts: NodeFacts<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    let mut order = Vec::new();
    for variable in &container.env {
        let value = value_of(pod, variable, facts, &values)?;
        if values.insert(&variable.name, value).is_none() {
            order.push(variable.name.as_str());
        }
    }
    Ok(order
        .into_iter()
        .map(|name| (name.to_owned(), values.remove(name).unwrap_or_default()))
        .collect())
}

fn value_of(
    pod: &Pod,
    variable: &EnvVar,
    facts: NodeFacts<'_>,
    earlier: &BTreeMap<&str, String>,
) -> Result<String, EnvError> {
    let reference = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
    match reference {
        None => Ok(expand(&variable.value, |name| earlier.get(name).cloned())),
        Some(reference) => field(pod, &reference.field_path, facts).ok_or_else(|| EnvError::UnknownField {
            name: variable.name.clone(),
            path: reference.field_path.clone(),
        }),
    }
}

/// The downward API field at `path`; a label or annotation that is not there is empty.
fn field(pod: &Pod, path: &str, facts: NodeFacts<'_>) -> Option<String> {
    let meta = pod.metadata.clone().unwrap_or_default();
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Some(meta.labels.get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(meta.annotations.get(key).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => meta.name,
        "metadata.namespace" => meta.namespace,
        "metadata.uid" => meta.uid,
        "spec.nodeName" => pod.spec.as_ref().map(|spec| spec.node_name.clone()).unwrap_or_default(),
        "status.podIP" => first(facts.pod_ips),
        "status.podIPs" => list(facts.pod_ips),
        "status.hostIP" => first(facts.host_ips),
        "status.hostIPs" => list(facts.host_ips),
        _ => return None,
    })
}

fn first(addresses: &[IpAddr]) -> String {
    addresses.first().map(IpAddr::to_string).unwrap_or_default()
}

/// With commas between them, as Kubernetes' downward API has it.
fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(",")
}

/// Replaces `$(NAME)` by the variable's value. An unknown name stays as it is; `$$` is a dollar sign that begins no
/// reference (Kubernetes' `third_party/forked/golang/expansion`).
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        if let Some((name, tail)) = reference {
            if let Some(value) = lookup(name) {
                out.push_str(&value);
            } else {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use causeway_proto::v1::{EnvVarSource, ObjectFieldSelector, ObjectMeta, PodSpec};

    use super::*;

    const FACTS: NodeFacts<'_> = NodeFacts {
        pod_ips: &[
            IpAddr::V4(Ipv4Addr::new(10, 244, 0, 7)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 7)),
        ],
        host_ips: &[IpAddr::V4(Ipv4Addr::new(172, 30, 0, 2))],
    };

    fn pod() -> Pod {
        Pod {
            metadata: Some(ObjectMeta {
                name: "web-1".into(),
                namespace: "default".into(),
                uid: "u-1".into(),
                labels: [("app.kubernetes.io/name".into(), "web".into())].into(),
                annotations: [("note".into(), "x".into())].into(),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                node_name: "node-1".into(),
                ..PodSpec::default()
            }),
            status: None,
        }
    }

    fn plain(name: &str, value: &str) -> EnvVar {
        EnvVar {
            name: name.into(),
            value: value.into(),
            value_from: None,
        }
    }

    fn from_field(name: &str, path: &str) -> EnvVar {
        let field_ref = Some(ObjectFieldSelector {
            api_version: "v1".into(),
            field_path: path.into(),
        });
        EnvVar {
            name: name.into(),
            value: String::new(),
            value_from: Some(EnvVarSource { field_ref }),
        }
    }

    #[test]
    fn every_supported_field_is_filled_in() {
        for (path, want) in [
            ("metadata.name", "web-1"),
            ("metadata.namespace", "default"),
            ("metadata.uid", "u-1"),
            ("metadata.labels['app.kubernetes.io/name']", "web"),
            ("metadata.labels['absent']", ""),
            ("metadata.annotations['note']", "x"),
            ("spec.nodeName", "node-1"),
            ("status.podIP", "10.244.0.7"),
            ("status.podIPs", "10.244.0.7,fd00:244::7"),
            ("status.hostIPs", "172.30.0.2"),
            ("status.hostIP", "172.30.0.2"),
        ] {
            let container = Container {
                env: vec![from_field("V", path)],
                ..Container::default()
            };
            assert_eq!(
                environment(&pod(), &container, FACTS).unwrap(),
                [("V".to_owned(), want.to_owned())],
                "{path}"
            );
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let container = Container {
            env: vec![from_field("V", "spec.nodename")],
            ..Container::default()
        };
        let error = environment(&pod(), &container, FACTS).unwrap_err();
        assert_eq!(
            error.to_string(),
            "env V: field path \"spec.nodename\" is not supported"
        );
    }

    #[test]
    fn variables_see_earlier_ones_and_the_last_value_wins() {
        let env = vec![
            plain("A", "1"),
            plain("B", "$(A)-$(C)"),
            plain("C", "3"),
            plain("A", "$(A)2"),
        ];
        let container = Container {
            env,
            ..Container::default()
        };
        let got = environment(&pod(), &container, FACTS).unwrap();
        let want = [("A", "12"), ("B", "1-$(C)"), ("C", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(got, want);
    }

    #[test]
    fn references_expand_and_dollars_escape() {
        let lookup = |name: &str| (name == "A").then(|| "x".to_owned());
        for (text, want) in [
            ("$(A)", "x"),
            ("a$(A)b$(A)", "axbx"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A $( $", "$A $( $"),
            ("100%", "100%"),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), want, "{text}");
        }
    }
}
