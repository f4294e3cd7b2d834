//! Medians and spread.

/// The middle value; the mean of the two in the middle when their number is even. `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Median absolute deviation: the median of the distances from the median. Half of all values are nearer to the median.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let centre = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    median(&distances)
}

/// Median of the ratios of values of the same round: what drifts through all modes of a round drops out. Rounds that one
/// of the two has no value of, and references of zero, are left out.
pub fn paired_ratio(values: &[(usize, f64)], references: &[(usize, f64)]) -> Option<f64> {
    let ratios: Vec<f64> = values
        .iter()
        .filter_map(|(round, value)| {
            let (_, reference) = references.iter().find(|(other, _)| other == round)?;
            (*reference > 0.0).then(|| value / reference)
        })
        .collect();
    median(&ratios)
}

/// Value below which the given share of all counted values lies; `counted` holds values in rising order with the number of
/// times they occurred.
pub fn quantile(counted: &[(u64, u64)], share: f64) -> Option<u64> {
    let total: u64 = counted.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return None;
    }
    #[expect(clippy::cast_sign_loss, reason = "a share is between 0 and 1")]
    let rank = ((total as f64 * share).ceil() as u64).clamp(1, total);
    let mut seen = 0;
    counted
        .iter()
        .find(|(_, count)| {
            seen += count;
            seen >= rank
        })
        .map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ignore_one_wild_value() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 900.0]), Some(3.0));
        assert_eq!(median(&[1.0, 2.0, 3.0, 4.0]), Some(2.5));
    }

    #[test]
    fn deviation_is_the_typical_distance() {
        assert_eq!(deviation(&[10.0, 11.0, 9.0, 500.0, 10.0]), Some(1.0));
        assert_eq!(deviation(&[7.0]), Some(0.0));
    }

    #[test]
    fn ratios_pair_the_values_of_a_round() {
        // The machine gets three times slower from round to round; the mode always costs double.
        let mode = [(0, 2.0), (1, 6.0), (2, 18.0)];
        let direct = [(2, 9.0), (1, 3.0), (0, 1.0)];
        assert_eq!(paired_ratio(&mode, &direct), Some(2.0));
        assert_eq!(paired_ratio(&mode, &[(7, 1.0)]), None);
        assert_eq!(paired_ratio(&mode, &[(0, 0.0)]), None);
    }

    #[test]
    fn quantiles_count() {
        let counted = [(10, 50), (20, 49), (1000, 1)];
        assert_eq!(quantile(&counted, 0.5), Some(10));
        assert_eq!(quantile(&counted, 0.99), Some(20));
        assert_eq!(quantile(&counted, 1.0), Some(1000));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
