//! The requests in flight on one connection.

/// Smallest request number. All numbers from here to `i32::MAX` have ten digits, so a request can be
/// built from an earlier one by overwriting its number, in every encoding.
const NUMBER_MIN: i32 = 1_000_000_000;
/// Number of request numbers before they repeat.
const NUMBERS: u64 = 1_000_000_000;

/// A request in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    pub message: Message,
    pub sent_ns: u64,
    /// Sequence of its first message.
    pub first: u64,
}

/// A due request. It is sent once, several times, or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub due_ns: u64,
    pub queue: u32,
    /// Index of its message size.
    pub size: u16,
    /// Requests of one lane are sent one after the other.
    pub lane: u16,
    /// Number of refusals so far.
    pub refusals: u32,
    /// The generator's lateness when it was first sent, µs.
    pub late_us: u32,
    /// Sequence of its first message, once it was sent.
    pub first: Option<u64>,
}

/// At most `size` requests in flight, looked up by the number in their replies.
#[derive(Debug)]
pub struct Window {
    /// Number and content per slot; a free slot has number 0.
    slots: Vec<(i32, InFlight)>,
    free: Vec<u32>,
    /// How often slots were used. Part of the number, so a late reply does not match a new request.
    rounds: u64,
}

impl Window {
    pub fn new(size: u32) -> Self {
        let empty = InFlight::default();
        Self { slots: vec![(0, empty); size as usize], free: (0..size).rev().collect(), rounds: 0 }
    }

    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Reserves a slot for `request` and returns its number.
    ///
    /// # Panics
    /// If the window is full.
    pub fn open(&mut self, request: InFlight) -> i32 {
        let slot = self.free.pop().expect("the caller has seen room");
        let size = self.slots.len() as u64;
        let rounds_max = NUMBERS / size;
        self.rounds += 1;
        let number = NUMBER_MIN + (self.rounds % rounds_max * size + u64::from(slot)) as i32;
        self.slots[slot as usize] = (number, request);
        number
    }

    /// Removes the request with this number, if it is in flight.
    pub fn close(&mut self, number: i32) -> Option<InFlight> {
        let offset = number.checked_sub(NUMBER_MIN).filter(|&offset| offset >= 0)?;
        let slot = offset as usize % self.slots.len();
        let (taken, request) = self.slots[slot];
        if taken != number {
            return None;
        }
        self.slots[slot].0 = 0;
        self.free.push(slot as u32);
        Some(request)
    }

    /// Gives up all requests in flight.
    pub fn close_all(&mut self) -> Vec<InFlight> {
        let mut given_up = Vec::new();
        for (slot, (number, request)) in self.slots.iter_mut().enumerate() {
            if *number != 0 {
                *number = 0;
                self.free.push(slot as u32);
                given_up.push(*request);
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(first: u64) -> InFlight {
        InFlight { sent_ns: 2, first, ..InFlight::default() }
    }

    #[test]
    fn answers_find_their_requests_in_any_order_and_once() {
        let mut window = Window::new(3);
        let numbers = [0, 1, 2].map(|first| window.open(request(first)));
        assert!(!window.has_room());
        for index in [2, 0, 1] {
            assert_eq!(window.close(numbers[index]), Some(request(index as u64)));
            assert_eq!(window.close(numbers[index]), None, "answered twice");
        }
        assert!(window.is_empty());
        for stranger in [0, -1, i32::MIN, i32::MAX, 999_999_999] {
            assert_eq!(window.close(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn numbers_have_ten_digits_and_return_late() {
        for size in [1, 3, 65_536] {
            let mut window = Window::new(size);
            let first = window.open(request(0));
            window.close(first);
            for _ in 0..10_000 {
                let number = window.open(request(0));
                assert!(number != first && number.to_string().len() == 10, "{number}");
                window.close(number);
            }
        }
    }

    #[test]
    fn all_can_be_given_up() {
        let mut window = Window::new(4);
        let number = window.open(request(7));
        window.open(request(8));
        assert_eq!(window.close_all().len(), 2);
        assert!(window.is_empty() && window.close(number).is_none());
    }
}
