//! Medians, ratios and raw samples as text.

use crate::cases::Better;

/// Samples of one metric: one list per engine, in the order of the engines.
pub struct Row {
    /// Name of the metric.
    pub metric: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Samples per engine.
    pub samples: Vec<Vec<f64>>,
}

/// The middle of the samples; NaN without any.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// How often a sample of `a` beats one of `b` (the rank statistic of Mann and Whitney, 0 to 1).
pub fn wins(a: &[f64], b: &[f64], better: Better) -> f64 {
    let score = |x: f64, y: f64| match (x == y, (x < y) == (better == Better::Less)) {
        (true, _) => 0.5,
        (false, won) => f64::from(u8::from(won)),
    };
    let sum: f64 = a
        .iter()
        .flat_map(|x| b.iter().map(move |y| score(*x, *y)))
        .sum();
    sum / (a.len() * b.len()) as f64
}

/// How many times better the first engine is than the other.
fn ratio(first: f64, other: f64, better: Better) -> String {
    let times = if better == Better::Less {
        other / first
    } else {
        first / other
    };
    if times.is_finite() && times > 0.0 {
        format!("{times:.1}x")
    } else {
        "-".to_owned()
    }
}

/// A Markdown table: medians of all engines, ratios of the first to each other one.
pub fn table(names: &[String], rows: &[Row]) -> String {
    let mut out = String::from("| work | unit |");
    let mut rule = String::from("|---|---|");
    for name in names {
        out += &format!(" {name} |");
        rule += "---|";
    }
    for name in names.iter().skip(1) {
        out += &format!(" {} against {name} | wins |", names[0]);
        rule += "---|---|";
    }
    out = out + "\n" + &rule + "\n";
    for row in rows {
        out += &format!("| {} | {} |", row.metric, row.unit);
        for samples in &row.samples {
            out += &format!(" {:.2} |", median(samples));
        }
        for other in row.samples.iter().skip(1) {
            let times = ratio(median(&row.samples[0]), median(other), row.better);
            out += &format!(
                " {times} | {:.2} |",
                wins(&row.samples[0], other, row.better)
            );
        }
        out.push('\n');
    }
    out
}

/// The raw samples, one line per metric and engine.
pub fn raw(names: &[String], rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        for (name, samples) in names.iter().zip(&row.samples) {
            let list: Vec<String> = samples.iter().map(|s| format!("{s:.3}")).collect();
            out += &format!(
                "{name} | {} [{}]: {}\n",
                row.metric,
                row.unit,
                list.join(" ")
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranks() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(wins(&[1.0, 2.0], &[3.0], Better::Less), 1.0);
        assert_eq!(wins(&[1.0, 2.0], &[3.0], Better::More), 0.0);
        assert_eq!(wins(&[1.0], &[1.0], Better::Less), 0.5);
    }

    #[test]
    fn a_table_has_a_ratio_per_other_engine() {
        let row = Row {
            metric: "m",
            unit: "ms",
            better: Better::Less,
            samples: vec![vec![1.0], vec![10.0]],
        };
        let text = table(&["a".into(), "b".into()], &[row]);
        assert!(
            text.contains("| m | ms | 1.00 | 10.00 | 10.0x | 1.00 |"),
            "{text}"
        );
    }
}
