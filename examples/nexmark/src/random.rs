//! Random numbers and texts of one event. SplitMix64 (Steele, Lea, Flood 2014): a generator that is
//! cheap to seed, since every event has its own, and that no library update changes.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
/// Shortest random text.
const MIN_TEXT: u64 = 3;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, number: u64) -> Self {
        let mut mixed = Self(seed ^ GOLDEN);
        let stream = mixed.next() ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Self(stream)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below `bound`, by multiplication and shift; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        let bits = (self.next() >> 11) as f64;
        bits / (1u64 << 53) as f64
    }

    /// One of a list.
    pub fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        let at = self.below(list.len() as u64);
        list.get(usize::try_from(at).unwrap_or(0)).copied().unwrap_or_default()
    }

    /// A price in cents: ten to the power of 0 to 6, log-uniform, so that few are high.
    pub fn price(&mut self) -> i64 {
        #[allow(clippy::cast_possible_truncation, reason = "at most 1e8")]
        let price = (10f64.powf(self.unit() * 6.0) * 100.0).round() as i64;
        price
    }

    /// Appends 3 to below `longest` characters, one in 13 of them `gap`, trimmed of spaces.
    pub fn text(&mut self, out: &mut String, longest: u64, gap: char) {
        let from = out.len();
        for _ in 0..MIN_TEXT + self.below(longest - MIN_TEXT) {
            if self.below(13) == 0 { out.push(gap) } else { out.push(self.letter()) }
        }
        if gap == ' ' {
            let kept = out[from..].trim().to_owned();
            out.truncate(from);
            out.push_str(&kept);
        }
    }

    fn letter(&mut self) -> char {
        char::from(b'a' + u8::try_from(self.below(26)).unwrap_or(0))
    }

    /// Text that brings an event from `bytes` to `average` bytes, give or take a fifth of the
    /// difference; empty if it is there already.
    pub fn filler(&mut self, bytes: usize, average: usize) -> String {
        let missing = average.saturating_sub(bytes) as u64;
        let spread = (missing + 2) / 5;
        let length = missing - spread + self.below(2 * spread);
        let mut out = String::with_capacity(usize::try_from(length).unwrap_or(0));
        let (mut bits, mut left) = (0, 0);
        for _ in 0..length {
            if left == 0 {
                (bits, left) = (self.next(), 13);
            }
            out.push(char::from(b'a' + u8::try_from(bits % 26).unwrap_or(0)));
            (bits, left) = (bits / 26, left - 1);
        }
        out
    }
}
