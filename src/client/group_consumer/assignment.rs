//! Which queues of a topic a member of a group reads.
//!
//! Every member computes this for itself, from the same sorted lists. So it must be exactly what
//! stock clients compute by default (`AllocateMessageQueueAveragely`, remoting reference, 5.24):
//! contiguous ranges, and the first members have one queue more if it does not divide evenly.

/// The part of `queues` that the member `own` reads. Both lists are sorted, as all members sort
/// them. Empty if `own` is not a member, or there are more members than queues and it is one of the
/// last.
pub fn average<'a, T>(own: &str, members: &[String], queues: &'a [T]) -> &'a [T] {
    let Some(index) = members.iter().position(|member| member == own) else { return &[] };
    let (each, more) = (queues.len() / members.len(), queues.len() % members.len());
    let first = index * each + index.min(more);
    &queues[first..first + each + usize::from(index < more)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("c{number:02}")).collect()
    }

    /// The reference's own formula, written as it is there.
    fn reference(index: usize, members: usize, queues: usize) -> Vec<usize> {
        let rest = queues % members;
        let is_larger = rest > 0 && index < rest;
        let size = match queues <= members {
            true => 1,
            false => queues / members + usize::from(is_larger),
        };
        let first = if is_larger { index * size } else { index * size + rest };
        let count = size.min(queues.saturating_sub(first));
        (0..count).map(|nth| (first + nth) % queues).collect()
    }

    #[test]
    fn queues_are_divided_as_by_the_reference() {
        for member_count in 1..=9 {
            let members = members(member_count);
            for queue_count in 0..=20 {
                let queues: Vec<usize> = (0..queue_count).collect();
                let mut all: Vec<usize> = Vec::new();
                for (index, member) in members.iter().enumerate() {
                    let own = average(member, &members, &queues);
                    assert_eq!(own, reference(index, member_count, queue_count), "{member}");
                    all.extend(own);
                }
                assert_eq!(all, queues, "{member_count} members: each queue once");
            }
        }
    }

    #[test]
    fn who_is_no_member_has_no_queue() {
        assert_eq!(average("stranger", &members(3), &[1, 2, 3]), [0; 0]);
        assert_eq!(average("c00", &[], &[1, 2, 3]), [0; 0]);
    }
}
