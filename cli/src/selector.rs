//! Naming jobs and their parts: `7`, `7[3]`, `7[0-9:2,20]`, `7[3].1`.

use gangsaw_proto::jobs::v1::{IndexRange, Selector};

use crate::fail::{Failure, bad_input};
use crate::spec::units;

/// A job, some of its elements, one of their ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) job_id: u64,
    /// Empty: all of them.
    pub(crate) elements: Vec<IndexRange>,
    pub(crate) rank: Option<u32>,
}

impl Selection {
    /// As the scheduler takes it; ranks are named apart.
    pub(crate) fn wire(&self) -> Selector {
        Selector { job_id: self.job_id, elements: self.elements.clone() }
    }

    /// The job, when nothing but whole jobs is meant.
    pub(crate) fn whole_job(&self, verb: &str) -> Result<u64, Failure> {
        if self.elements.is_empty() && self.rank.is_none() {
            return Ok(self.job_id);
        }
        let sentence = format!("`{verb}` takes whole jobs, and this names a part of job {}", self.job_id);
        Err(bad_input("bad-selector", sentence, format!("write `gangsaw {verb} {}`", self.job_id)))
    }

    /// The elements, when ranks are not meant.
    pub(crate) fn whole_elements(&self, verb: &str) -> Result<Selector, Failure> {
        match self.rank {
            None => Ok(self.wire()),
            Some(rank) => {
                let sentence = format!("`{verb}` takes whole elements, and `.{rank}` names one rank");
                Err(bad_input("bad-selector", sentence, "all ranks of an element share its fate: leave the rank out"))
            }
        }
    }
}

impl std::str::FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Selection, String> {
        let usage = "write a job as 7, 7[3], 7[0-99:2] or 7[3].1";
        let (before_rank, rank) = match text.rsplit_once('.') {
            Some((before, rank)) => (before, Some(rank.parse::<u32>().map_err(|_| usage.to_owned())?)),
            None => (text, None),
        };
        let (job, elements) = match before_rank.split_once('[') {
            Some((job, rest)) => {
                let inside = rest.strip_suffix(']').ok_or_else(|| usage.to_owned())?;
                (job, units::ranges(inside).map_err(|misread| format!("{}; {}", misread.message, misread.hint))?)
            }
            None => (before_rank, Vec::new()),
        };
        let job_id = job.parse::<u64>().ok().filter(|id| *id > 0).ok_or_else(|| usage.to_owned())?;
        Ok(Selection { job_id, elements, rank })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_job_an_index_a_range_and_a_rank_are_understood() {
        let all: Selection = "7".parse().unwrap();
        assert_eq!((all.job_id, all.elements.len(), all.rank), (7, 0, None));
        let one: Selection = "7[3].1".parse().unwrap();
        assert_eq!((one.elements, one.rank), (vec![IndexRange { first: 3, last: 3, step: 1 }], Some(1)));
        let some: Selection = "7[7-99:2]".parse().unwrap();
        assert_eq!(some.elements, [IndexRange { first: 7, last: 99, step: 2 }]);
        assert_eq!("7.1".parse::<Selection>().unwrap().rank, Some(1));
        for wrong in ["", "0", "x", "7[", "7[3", "7[]", "7[9-1]", "7[3].x", "-1"] {
            wrong.parse::<Selection>().unwrap_err();
        }
    }
}
