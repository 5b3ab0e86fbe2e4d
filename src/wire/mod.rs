//! Bytes to requests and replies to bytes: one frame, three header encodings.
