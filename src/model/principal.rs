//! The identity behind a request.

/// The sender of a request, as far as the server has verified it. Determined from the head of a
/// request, before the fields of its command are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Principal {
    /// Not authenticated.
    #[default]
    Anonymous,
}
