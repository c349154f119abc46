//! Two brokers in turn: pairs of runs, and the ratio of each pair, so that what changes on the machine meanwhile touches both.

use ottla_load::latency::Summary;
use serde::Serialize;

use super::report::{Better, Report, Unit, median};
use super::target::Target;
use super::{Arguments, flow, interrupt, one, table};

#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) ours: String,
    pub(super) theirs: String,
    pub(super) pairs: u32,
    pub(super) durability: Vec<String>,
    /// What the machine took without a broker, in the minutes of each kind.
    pub(super) controls: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) figures: Vec<Compared>,
}

/// One figure of both, by pair.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) figure: String,
    pub(super) unit: Unit,
    pub(super) better: Better,
    pub(super) ours: Vec<f64>,
    pub(super) theirs: Vec<f64>,
    /// Ours to theirs: the median of the pairs' ratios.
    pub(super) ratio: f64,
    pub(super) ratio_least: f64,
    pub(super) ratio_most: f64,
}

impl Compared {
    fn of(figure: String, unit: Unit, better: Better, ours: Vec<f64>, theirs: Vec<f64>) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        let ratios: Vec<f64> = ratios.into_iter().filter(|ratio| ratio.is_finite()).collect();
        Self {
            figure,
            unit,
            better,
            ours,
            theirs,
            ratio: median(&ratios),
            ratio_least: ratios.iter().copied().fold(f64::NAN, f64::min),
            ratio_most: ratios.iter().copied().fold(f64::NAN, f64::max),
        }
    }

    /// Only what all pairs agree on is said.
    pub(super) fn verdict(&self) -> &'static str {
        let (all_less, all_more) = (self.ratio_most < 1.0, self.ratio_least > 1.0);
        match (self.better, all_less, all_more) {
            (Better::Lower, true, _) | (Better::Higher, _, true) => "better in all pairs",
            (Better::Lower, _, true) | (Better::Higher, true, _) => "worse in all pairs",
            _ => "",
        }
    }
}

pub(super) fn run(
    arguments: &Arguments,
    ours: &Target,
    theirs: &Target,
) -> anyhow::Result<(Vec<Report>, Comparison)> {
    for target in [ours, theirs] {
        flow::preheat(arguments, target)?;
    }
    let mut comparison = Comparison {
        ours: ours.name().to_owned(),
        theirs: theirs.name().to_owned(),
        pairs: arguments.pairs,
        durability: Vec::new(),
        controls: Vec::new(),
        warnings: Vec::new(),
        figures: Vec::new(),
    };
    let mut reports = Vec::new();
    for kind in arguments.kinds() {
        let mut pairs = Vec::new();
        for pair in 0..arguments.pairs {
            interrupt::check()?;
            // Who comes first alternates: what one leaves behind, such as dirty pages, is not always the other's burden.
            let (first, second) = if pair % 2 == 0 { (ours, theirs) } else { (theirs, ours) };
            let (a, b) = (one(arguments, kind, first)?, one(arguments, kind, second)?);
            let (of_ours, of_theirs) = if pair % 2 == 0 { (a, b) } else { (b, a) };
            eprintln!("{}: pair {} of {}", of_ours.kind, pair + 1, arguments.pairs);
            pairs.push((of_ours, of_theirs));
        }
        comparison.add(&pairs);
        reports.extend(pairs.into_iter().flat_map(|(ours, theirs)| [ours, theirs]));
    }
    Ok((reports, comparison))
}

impl Comparison {
    /// Takes in the pairs of one kind.
    fn add(&mut self, pairs: &[(Report, Report)]) {
        let Some((ours, theirs)) = pairs.first() else { return };
        let (words, other_words) = (ours.durability.words(), theirs.durability.words());
        if words == other_words {
            if !words.is_empty() {
                self.durability.push(format!("{}: both {words}", ours.kind));
            }
        } else {
            self.durability
                .push(format!("{}: {} {words}; {} {other_words}", ours.kind, self.ours, self.theirs));
            self.warnings.push(format!(
                "{}: the two do not promise the same: --durability disk or memory sets it for both",
                ours.kind
            ));
        }
        let control = |pick: fn(&Summary) -> f64| {
            let all = pairs.iter().flat_map(|(ours, theirs)| [pick(&ours.control), pick(&theirs.control)]);
            table::us(median(&all.collect::<Vec<f64>>()))
        };
        let (p50, p99) = (control(|summary| summary.p50_us), control(|summary| summary.p99_us));
        self.controls.push(format!("{}: bare socket meanwhile: p50 {p50}, p99 {p99}", ours.kind));
        let failed =
            |report: &Report| report.streams().iter().map(|(_, figures)| figures.failed()).sum::<u64>();
        let (ours_failed, theirs_failed): (u64, u64) =
            pairs.iter().fold((0, 0), |sum, pair| (sum.0 + failed(&pair.0), sum.1 + failed(&pair.1)));
        if ours_failed + theirs_failed > 0 {
            self.warnings.push(format!(
                "{}: requests failed: {} {ours_failed}, {} {theirs_failed}",
                ours.kind, self.ours, self.theirs
            ));
        }
        for row in ours.rows() {
            let of = |report: &Report| {
                report.rows().into_iter().find(|other| other.figure == row.figure).map(|other| other.value)
            };
            let samples: Option<Vec<(f64, f64)>> =
                pairs.iter().map(|(ours, theirs)| of(ours).zip(of(theirs))).collect();
            if let Some(samples) = samples {
                let (ours, theirs) = samples.into_iter().unzip();
                self.figures.push(Compared::of(row.figure, row.unit, row.better, ours, theirs));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(better: Better, ours: &[f64], theirs: &[f64]) -> Compared {
        Compared::of("f".to_owned(), Unit::Seconds, better, ours.to_vec(), theirs.to_vec())
    }

    #[test]
    fn ratios_are_those_of_the_pairs() {
        let figure = compared(Better::Lower, &[1.0, 4.0, 3.0], &[2.0, 4.0, 12.0]);
        assert_eq!((figure.ratio, figure.ratio_least, figure.ratio_most), (0.5, 0.25, 1.0));
    }

    #[test]
    fn only_what_all_pairs_agree_on_is_said() {
        assert_eq!(compared(Better::Lower, &[1.0, 2.0], &[2.0, 3.0]).verdict(), "better in all pairs");
        assert_eq!(compared(Better::Higher, &[1.0, 2.0], &[2.0, 3.0]).verdict(), "worse in all pairs");
        assert_eq!(compared(Better::Lower, &[1.0, 4.0], &[2.0, 3.0]).verdict(), "");
        assert_eq!(compared(Better::Lower, &[0.0], &[0.0]).verdict(), "");
    }
}
