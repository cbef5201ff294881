//! What many measurements of one thing amount to.

use std::{fmt, time::Duration};

/// Measurements of one thing, at least one.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a measurement.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Adds those of another.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Half of all take as long as this or longer.
    pub fn median(&self) -> Duration {
        self.quantile(50)
    }

    /// One in ten takes longer.
    pub fn p90(&self) -> Duration {
        self.quantile(90)
    }

    /// The median relative to another's.
    pub fn ratio(&self, other: &Self) -> f64 {
        self.median().as_secs_f64() / other.median().as_secs_f64()
    }

    fn quantile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted[((sorted.len() - 1) * percent + 50) / 100]
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// `12.3 ms (15.0)`: the median, and the 90th percentile.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, p90) = (self.median().as_secs_f64(), self.p90().as_secs_f64());
        let (unit, factor) = if median < 0.001 { ("µs", 1e6) } else { ("ms", 1e3) };
        write!(f, "{:.1} {unit} ({:.1})", median * factor, p90 * factor)
    }
}
