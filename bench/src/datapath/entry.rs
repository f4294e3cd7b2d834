//! What is shown of a measurement.

use serde::Serialize;

/// Which side of the goal is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The goal or less.
    AtMost,
    /// The goal or more.
    AtLeast,
}

/// What a number should be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// Of the value itself.
    Value(Bound, f64),
    /// Of its ratio to the baseline.
    Ratio(Bound, f64),
}

/// A measurement. Fields of the JSON list.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Entry {
    /// What was measured.
    pub name: String,
    /// Median over the rounds.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it is compared with, in the same unit; null where it stands alone.
    pub baseline: Option<f64>,
    /// Value to baseline: median of the rounds' ratios.
    pub ratio: Option<f64>,
    /// What the ratio, or the value where `goal_of` says so, should be; null for what has no goal.
    pub goal: Option<f64>,
    /// Whether it is; null without a goal.
    pub met: Option<bool>,
    /// "value" or "ratio".
    pub goal_of: Option<&'static str>,
    /// Which side of the goal is right.
    pub bound: Option<Bound>,
    /// Median absolute deviation of the value over the rounds; null for a single one.
    pub spread: Option<f64>,
    /// What it means, for people.
    pub title: String,
}

impl Entry {
    /// A value that stands alone.
    pub fn new(name: impl Into<String>, title: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            baseline: None,
            ratio: None,
            goal: None,
            met: None,
            goal_of: None,
            bound: None,
            spread: None,
            title: title.into(),
        }
    }

    /// Compared with something.
    #[must_use]
    pub fn against(self, baseline: f64, ratio: f64) -> Self {
        Self {
            baseline: Some(baseline),
            ratio: Some(ratio),
            ..self
        }
    }

    /// How much the rounds differ.
    #[must_use]
    pub fn spread(self, spread: Option<f64>) -> Self {
        Self { spread, ..self }
    }

    /// Judged by a goal. To be called last.
    #[must_use]
    pub fn goal(self, goal: Goal) -> Self {
        let (judged, goal_of, bound, limit) = match goal {
            Goal::Value(bound, limit) => (Some(self.value), "value", bound, limit),
            Goal::Ratio(bound, limit) => (self.ratio, "ratio", bound, limit),
        };
        let met = judged.map(|judged| match bound {
            Bound::AtMost => judged <= limit,
            Bound::AtLeast => judged >= limit,
        });
        Self {
            goal: Some(limit),
            // A ratio that is not known meets nothing.
            met: Some(met.unwrap_or(false)),
            goal_of: Some(goal_of),
            bound: Some(bound),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::new("n", "t", 101.0, "ns").against(100.0, 1.01)
    }

    #[test]
    fn goals_are_of_the_value_or_of_the_ratio() {
        assert_eq!(entry().goal(Goal::Ratio(Bound::AtMost, 1.02)).met, Some(true));
        assert_eq!(entry().goal(Goal::Ratio(Bound::AtLeast, 1.02)).met, Some(false));
        assert_eq!(entry().goal(Goal::Value(Bound::AtMost, 100.0)).met, Some(false));
        assert_eq!(entry().met, None);
    }

    #[test]
    fn a_goal_without_its_ratio_is_missed() {
        let alone = Entry::new("n", "t", 1.0, "ns");
        assert_eq!(alone.goal(Goal::Ratio(Bound::AtMost, 2.0)).met, Some(false));
    }

    #[test]
    fn an_entry_has_the_documented_fields() {
        let value = serde_json::to_value(entry().goal(Goal::Ratio(Bound::AtMost, 1.02))).unwrap();
        let fields = ["name", "value", "unit", "baseline", "ratio", "goal", "met"];
        for field in fields {
            assert!(!value[field].is_null(), "{field}");
        }
        assert_eq!(value["bound"], "at_most");
    }
}
