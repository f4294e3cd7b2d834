//! Results for scripts.

use anyhow::{Context as _, Result};

use super::{Entry, Run};

/// The list of all entries.
pub fn json(runs: &[Run]) -> Result<String> {
    let entries: Vec<&Entry> = runs.iter().flat_map(|(_, entries)| entries).collect();
    list(&entries)
}

fn list(entries: &[&Entry]) -> Result<String> {
    let mut text = serde_json::to_string_pretty(entries).context("cannot write the results")?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::{Backends, Measure, Mode, Position};

    #[test]
    fn an_entry_has_the_documented_fields() {
        let entry = Entry {
            backends: Backends::Local,
            mode: Mode::CausewaySocket,
            services: 1_000,
            position: Some(Position::Last),
            measure: Measure::ConnectLatencyP50,
            value: 25.5,
            unit: "µs",
            ratio_to_direct: Some(1.02),
            ratio_to_iptables: None,
            spread: Some(0.5),
        };
        let value: serde_json::Value = serde_json::from_str(&list(&[&entry]).unwrap()).unwrap();
        let expected = serde_json::json!([{
            "backends": "local",
            "mode": "causeway-socket",
            "services": 1_000,
            "position": "last",
            "measure": "connect_latency_p50",
            "value": 25.5,
            "unit": "µs",
            "ratio_to_direct": 1.02,
            "ratio_to_iptables": null,
            "spread": 0.5,
        }]);
        assert_eq!(value, expected);
    }
}
