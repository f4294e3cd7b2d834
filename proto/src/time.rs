//! Times of the API: seconds and nanoseconds since the Unix epoch, RFC 3339 text, and ages as people read them.

use jiff::Timestamp as Jiff;
use prost_types::Timestamp;
use thiserror::Error;

/// Text that is not an RFC 3339 time.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("`{text}` is not an RFC 3339 time such as 2026-01-31T12:00:00Z")]
pub struct NotATime {
    /// The text.
    pub text: String,
}

/// The present time in whole seconds, as Kubernetes stamps its objects.
pub fn now() -> Timestamp {
    Timestamp {
        seconds: Jiff::now().as_second(),
        nanos: 0,
    }
}

/// The present time with microseconds, as in leases.
pub fn now_micro() -> Timestamp {
    let now = Jiff::now();
    Timestamp {
        seconds: now.as_second(),
        nanos: now.subsec_nanosecond() / 1_000 * 1_000,
    }
}

/// RFC 3339 text in UTC, with a fraction only where there is one. A time outside the years -9999 to 9999 is shown as the
/// nearest one inside.
pub fn to_rfc3339(time: &Timestamp) -> String {
    let nearest = if time.seconds < 0 { Jiff::MIN } else { Jiff::MAX };
    Jiff::new(time.seconds, time.nanos).unwrap_or(nearest).to_string()
}

/// Reads RFC 3339 text of any offset.
pub fn from_rfc3339(text: &str) -> Result<Timestamp, NotATime> {
    let time: Jiff = text.parse().map_err(|_| NotATime { text: text.to_owned() })?;
    Ok(Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    })
}

/// Seconds from one time to another; negative when `to` is earlier.
pub fn seconds_between(from: &Timestamp, to: &Timestamp) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds between two times of an object fit 52 bits"
    )]
    let seconds = to.seconds.saturating_sub(from.seconds) as f64;
    seconds + f64::from(to.nanos - from.nanos) / 1e9
}

/// How long before `now` the time was, as kubectl prints it; "<unknown>" without a time.
pub fn age_at(time: Option<&Timestamp>, now: &Timestamp) -> String {
    time.map_or_else(
        || "<unknown>".to_owned(),
        |time| human_duration(now.seconds.saturating_sub(time.seconds)),
    )
}

/// How long ago `time` was, as kubectl prints it; "<unknown>" without a time.
pub fn age(time: Option<&Timestamp>) -> String {
    age_at(time, &now())
}

/// A length of time in at most two units, as kubectl prints ages: "42s", "5m", "3h12m", "7d", "2y31d".
///
/// The thresholds are those of apimachinery's `duration.HumanDuration`. Up to a second into the future counts as 0.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(seconds / YEAR, "y", seconds % YEAR / DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (11_520, "3h12m"),
            (86_400, "24h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (8 * 86_400, "8d"),
            (366 * 86_400, "366d"),
            (2 * 365 * 86_400 + 86_400, "2y1d"),
            (9 * 365 * 86_400, "9y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds} s");
        }
    }

    #[test]
    fn times_survive_their_text() {
        let time = from_rfc3339("2026-01-31T13:00:00.25+01:00").expect("a time");
        assert_eq!(to_rfc3339(&time), "2026-01-31T12:00:00.25Z");
        assert_eq!(
            to_rfc3339(&Timestamp {
                seconds: i64::MIN,
                nanos: -5
            }),
            Jiff::MIN.to_string()
        );
        assert!(from_rfc3339("yesterday").is_err());
    }
}
