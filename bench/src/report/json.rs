//! Results for scripts.

use anyhow::{Context as _, Result};

use super::Entry;

/// The list of all entries.
pub fn json(entries: &[Entry]) -> Result<String> {
    let mut text = serde_json::to_string_pretty(entries).context("cannot write the results")?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::{Measure, Mode, Position};

    #[test]
    fn an_entry_has_the_documented_fields() {
        let entry = Entry {
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
        let value: serde_json::Value = serde_json::from_str(&json(&[entry]).unwrap()).unwrap();
        let expected = serde_json::json!([{
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
