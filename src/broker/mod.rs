//! What a broker does with a request.
