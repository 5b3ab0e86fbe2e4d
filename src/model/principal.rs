//! On whose behalf a request comes.

/// Who a request comes from, as far as the server has verified it. Decided from the head of a
/// request, before the fields of its command are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Principal {
    /// Nobody has said who they are, or nobody has checked it.
    #[default]
    Anonymous,
}
