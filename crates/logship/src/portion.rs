//! How much of what is left a service is given at once.

/// Records of one request. After a request that was refused it is tried with fewer, until the one that is at fault stands
/// alone: what is beside it is not lost with it.
#[derive(Debug)]
pub(crate) struct Portion {
    records: usize,
    max: usize,
}

impl Portion {
    pub(crate) fn new(max: usize) -> Portion {
        Portion { records: max, max }
    }

    /// Records of the next request, at most.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// A request of these was taken.
    pub(crate) fn taken(&mut self) {
        self.records = (self.records * 2).min(self.max);
    }

    /// A request of so many was refused for what is in it. Whether fewer may be taken; if not, it is the one record.
    pub(crate) fn refused(&mut self, records: usize) -> bool {
        self.records = (records / 2).max(1);
        records > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_at_fault_is_left_alone() {
        for bad in [0, 1, 499, 998, 999] {
            let mut portion = Portion::new(1000);
            let (mut done, mut requests, mut dropped) = (0, 0, Vec::new());
            while done < 1000 {
                let count = portion.records().min(1000 - done);
                requests += 1;
                if !(done..done + count).contains(&bad) {
                    portion.taken();
                } else if portion.refused(count) {
                    continue;
                } else {
                    dropped.push(done);
                }
                done += count;
            }
            assert_eq!(dropped, [bad]);
            assert!(requests < 40, "{requests}");
        }
    }
}
