//! A disk that loses power, and what drives it.
