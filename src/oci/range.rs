//! Byte ranges: those of a pull (`Range`, RFC 9110) and those of an upload's chunks.
//!
//! The two look alike and are not: a pull says `bytes=0-1023` and may name several ranges, a
//! chunk says `0-1023` and nothing else. Whatever a client asks for, the ranges returned here
//! never add up to more bytes than the blob has, so a short request cannot cause a huge answer.

use std::fmt;

/// More ranges than this in one header make it a header to be ignored.
pub const RANGES_MAX: usize = 64;

/// What a `Range` header asks of a representation of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Everything: no header, or one that RFC 9110 lets a server ignore (status 200).
    Whole,
    /// These parts, never empty. Several are in ascending order and neither overlap nor touch
    /// (status 206).
    Some(Vec<ByteRange>),
    /// Nothing that exists (status 416).
    Unsatisfiable,
}

/// A part of a blob that is never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte; greater than `start`.
    pub end_exclusive: u64,
}

/// The place of an upload's chunk, from the `Content-Range` of a `PATCH` or `PUT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentRange {
    /// Offset of the chunk's first byte.
    pub start: u64,
    /// Offset of the chunk's last byte; not below `start`.
    pub end_inclusive: u64,
}

/// Why a chunk's `Content-Range` cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentRangeError {
    /// The header is not two decimal numbers joined by a dash.
    #[error(
        "the content range of a chunk is two numbers joined by a dash, such as 0-1023, without unit or total"
    )]
    Malformed,
    /// The first number is greater than the second.
    #[error("the content range of a chunk ends before it starts")]
    Reversed,
    /// A number does not fit 64 bits.
    #[error("the content range of a chunk is beyond the size of any blob")]
    TooLarge,
}

impl Ranges {
    /// Reads the value of a `Range` header against a representation of `length` bytes.
    ///
    /// An unknown unit, a syntax error or more than [`RANGES_MAX`] ranges is
    /// [`Whole`](Ranges::Whole): RFC 9110 (14.2) has a server ignore what it does not
    /// understand. `500-0` is such an error there, but the conformance program wants 416 for
    /// it, and so it counts as a range past the end.
    pub fn parse(header: Option<&str>, length: u64) -> Self {
        let Some(set) = header.and_then(range_set) else {
            return Self::Whole;
        };
        let mut ranges = Vec::new();
        let mut found = 0_usize;
        for element in set.split(',') {
            let element = element.trim_matches([' ', '\t']);
            // The list rule of RFC 9110 (5.6.1.2) lets elements be empty.
            if element.is_empty() {
                continue;
            }
            found += 1;
            let Some(asked) = Asked::parse(element) else {
                return Self::Whole;
            };
            if found > RANGES_MAX {
                return Self::Whole;
            }
            ranges.extend(asked.within(length));
        }
        if found == 0 {
            return Self::Whole;
        }
        if ranges.is_empty() {
            return Self::Unsatisfiable;
        }
        Self::Some(coalesce(ranges))
    }
}

/// The list of ranges in a header whose unit is bytes.
fn range_set(header: &str) -> Option<&str> {
    let (unit, set) = header.split_once('=')?;
    unit.eq_ignore_ascii_case("bytes").then_some(set)
}

/// One element of a `Range` header, before the length is known.
enum Asked {
    /// `500-` or `500-999`; the end is inclusive.
    From { first: u64, last: Option<u64> },
    /// `-500`: that many bytes from the end.
    Suffix(u64),
}

impl Asked {
    fn parse(element: &str) -> Option<Self> {
        let (first, last) = element.split_once('-')?;
        match (first, last) {
            ("", last) => Some(Self::Suffix(number(last)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => Some(Self::From { first: number(first)?, last: Some(number(last)?) }),
        }
    }

    /// The bytes that exist of those asked for.
    fn within(self, length: u64) -> Option<ByteRange> {
        let (start, end_exclusive) = match self {
            Self::From { first, last } => {
                let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                (first, end)
            }
            Self::Suffix(count) => (length.saturating_sub(count), length),
        };
        (start < end_exclusive).then_some(ByteRange { start, end_exclusive })
    }
}

/// A decimal number; one that does not fit is as good as the largest, since no blob reaches it.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.bytes().try_fold(0_u64, |number, digit| {
        digit.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    })
}

/// Sorts ranges and joins those that overlap or touch.
fn coalesce(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joined = next.start <= kept.end_exclusive;
        if joined {
            kept.end_exclusive = kept.end_exclusive.max(next.end_exclusive);
        }
        joined
    });
    ranges
}

impl ByteRange {
    /// The number of bytes.
    pub fn len(self) -> u64 {
        self.end_exclusive.saturating_sub(self.start)
    }

    /// Whether there are no bytes; never so for a range of [`Ranges::parse`].
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The `Content-Range` of this part of a representation of `length` bytes, such as
    /// `bytes 0-499/1000`.
    pub fn content_range(self, length: u64) -> String {
        let last = self.end_exclusive.saturating_sub(1);
        format!("bytes {}-{last}/{length}", self.start)
    }
}

impl ContentRange {
    /// Reads a header of the form `^[0-9]+-[0-9]+$`: no unit and no total, as the distribution
    /// spec has it for uploads.
    ///
    /// # Errors
    /// The header has another form, ends before it starts, or counts beyond 64 bits.
    pub fn parse(header: &str) -> Result<Self, ContentRangeError> {
        let (start, end) = header.split_once('-').ok_or(ContentRangeError::Malformed)?;
        let start = number(start).ok_or(ContentRangeError::Malformed)?;
        let end_inclusive = number(end).ok_or(ContentRangeError::Malformed)?;
        // The largest number stands for all that do not fit, and its length would not fit either.
        if start == u64::MAX || end_inclusive == u64::MAX {
            return Err(ContentRangeError::TooLarge);
        }
        if start > end_inclusive {
            return Err(ContentRangeError::Reversed);
        }
        Ok(Self { start, end_inclusive })
    }

    /// The number of bytes of the chunk, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a content range is never empty")]
    pub fn len(self) -> u64 {
        self.end_inclusive - self.start + 1
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.start, self.end_inclusive)
    }
}

/// The `Range` of an upload that has `offset` bytes. Without `bytes=`, as the spec has it; `0-0` also
/// stands for nothing yet.
pub fn range_until(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some(ranges: &[(u64, u64)]) -> Ranges {
        Ranges::Some(
            ranges.iter().map(|&(start, end_exclusive)| ByteRange { start, end_exclusive }).collect(),
        )
    }

    #[test]
    fn one_range_is_read_and_clamped() {
        for (header, expected) in [
            ("bytes=500-1499", some(&[(500, 1500)])),
            ("bytes=500-", some(&[(500, 3000)])),
            ("bytes=-500", some(&[(2500, 3000)])),
            ("bytes=2000-5000", some(&[(2000, 3000)])),
            ("bytes=0-", some(&[(0, 3000)])),
            ("bytes=-9000", some(&[(0, 3000)])),
            ("bytes=0-0", some(&[(0, 1)])),
            ("bytes=2999-2999", some(&[(2999, 3000)])),
            ("Bytes= 1-2 ", some(&[(1, 3)])),
            ("bytes=0-99999999999999999999999", some(&[(0, 3000)])),
            ("bytes=-99999999999999999999999", some(&[(0, 3000)])),
        ] {
            assert_eq!(Ranges::parse(Some(header), 3000), expected, "{header}");
        }
    }

    #[test]
    fn what_does_not_exist_is_unsatisfiable() {
        for header in [
            "bytes=500-0",
            "bytes=5000-10000",
            "bytes=3000-",
            "bytes=-0",
            "bytes=99999999999999999999999-",
            "bytes=500-0,4000-",
        ] {
            assert_eq!(Ranges::parse(Some(header), 3000), Ranges::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes=0x1-2",
            "items=0-1",
            "0-1",
            "bytes=0-1,x",
            "bytes=0-1;2-3",
            "bytes=٣-٤",
            "bytes=--5",
        ] {
            assert_eq!(Ranges::parse(Some(header), 3000), Ranges::Whole, "{header}");
        }
        assert_eq!(Ranges::parse(None, 3000), Ranges::Whole);
        assert_eq!(Ranges::parse(None, 0), Ranges::Whole);
    }

    #[test]
    fn an_empty_blob_satisfies_no_range() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=-0"] {
            assert_eq!(Ranges::parse(Some(header), 0), Ranges::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn several_ranges_come_sorted_and_joined_where_they_meet() {
        for (header, expected) in [
            ("bytes=0-1, 10-19", some(&[(0, 2), (10, 20)])),
            ("bytes=10-19,0-1", some(&[(0, 2), (10, 20)])),
            ("bytes=0-9,10-19", some(&[(0, 20)])),
            ("bytes=0-9,5-14,100-", some(&[(0, 15), (100, 3000)])),
            ("bytes=0-99,10-19,50-149", some(&[(0, 150)])),
            ("bytes=0-1,9000-,,5-6", some(&[(0, 2), (5, 7)])),
        ] {
            assert_eq!(Ranges::parse(Some(header), 3000), expected, "{header}");
        }
    }

    #[test]
    fn more_than_64_ranges_are_ignored() {
        let header = |count: u64| {
            let ranges: Vec<String> = (0..count).map(|n| format!("{}-{}", n * 10, n * 10)).collect();
            format!("bytes={}", ranges.join(","))
        };
        assert!(matches!(Ranges::parse(Some(&header(64)), 3000), Ranges::Some(ranges) if ranges.len() == 64));
        assert_eq!(Ranges::parse(Some(&header(65)), 3000), Ranges::Whole);
    }

    #[test]
    fn a_part_says_where_it_lies() {
        let range = ByteRange { start: 500, end_exclusive: 1500 };
        assert_eq!(range.len(), 1000);
        assert!(!range.is_empty());
        assert_eq!(range.content_range(3000), "bytes 500-1499/3000");
    }

    #[test]
    fn a_chunk_names_its_first_and_last_byte() {
        let range = ContentRange::parse("0-1023").unwrap();
        assert_eq!((range.start, range.end_inclusive, range.len()), (0, 1023, 1024));
        assert_eq!(range.to_string(), "0-1023");
        assert_eq!(ContentRange::parse("007-7").unwrap().len(), 1);
    }

    #[test]
    fn a_chunk_without_two_numbers_is_refused() {
        use ContentRangeError::{Malformed, Reversed, TooLarge};
        for (header, error) in [
            ("", Malformed),
            ("-", Malformed),
            ("0-", Malformed),
            ("-5", Malformed),
            ("0", Malformed),
            ("bytes=0-5", Malformed),
            ("bytes 0-5/6", Malformed),
            ("0-5/6", Malformed),
            ("0-5-6", Malformed),
            ("+0-5", Malformed),
            (" 0-5", Malformed),
            ("5-4", Reversed),
            ("0-18446744073709551615", TooLarge),
            ("99999999999999999999-99999999999999999999", TooLarge),
        ] {
            assert_eq!(ContentRange::parse(header), Err(error), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn the_parts_never_exceed_the_whole(
            header in "bytes=([0-9]{0,3}-[0-9]{0,3},){0,20}[0-9]{0,20}-[0-9]{0,20}",
            length in 0_u64..1200,
        ) {
            if let Ranges::Some(ranges) = Ranges::parse(Some(&header), length) {
                prop_assert!(!ranges.is_empty());
                prop_assert!(ranges.iter().all(|range| range.start < range.end_exclusive));
                prop_assert!(ranges.iter().all(|range| range.end_exclusive <= length));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end_exclusive < pair[1].start));
                prop_assert!(ranges.iter().map(|range| range.len()).sum::<u64>() <= length);
            }
        }

        #[test]
        fn the_parts_are_exactly_the_bytes_asked_for(
            asked in prop::collection::vec((0_u64..60, 0_u64..60), 1..8),
            length in 1_u64..50,
        ) {
            let list: Vec<String> = asked.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            let header = format!("bytes={}", list.join(","));
            let parts = match Ranges::parse(Some(&header), length) {
                Ranges::Some(ranges) => ranges,
                Ranges::Unsatisfiable => Vec::new(),
                Ranges::Whole => panic!("a well-formed header was ignored"),
            };
            for byte in 0..length {
                let wanted = asked.iter().any(|&(first, last)| first <= byte && byte <= last);
                let given = parts.iter().any(|part| part.start <= byte && byte < part.end_exclusive);
                prop_assert_eq!(given, wanted, "byte {}", byte);
            }
        }

        #[test]
        fn no_header_makes_the_parsers_panic(header in ".{0,60}", length: u64) {
            let _ = Ranges::parse(Some(&header), length);
            if let Ok(range) = ContentRange::parse(&header) {
                prop_assert!(range.len() >= 1);
            }
        }
    }
}
