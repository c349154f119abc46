//! What a request names more than once is answered once, after everything else, as Kafka answers it.

use std::collections::BTreeMap;

/// Keeps every result whose key stands once, in order; then one result for every key that stands more often, in order of the keys.
pub(super) fn answered_once<K: Ord, R>(results: impl IntoIterator<Item = (K, R)>) -> Vec<R> {
    let results: Vec<(K, R)> = results.into_iter().collect();
    let mut count: BTreeMap<&K, usize> = BTreeMap::new();
    for (key, _) in &results {
        *count.entry(key).or_default() += 1;
    }
    if count.len() == results.len() {
        return results.into_iter().map(|(_, result)| result).collect();
    }
    let stands_once: Vec<bool> = results.iter().map(|(key, _)| count[key] == 1).collect();
    let (mut singles, mut repeated) = (Vec::new(), BTreeMap::new());
    for ((key, result), once) in results.into_iter().zip(stands_once) {
        if once {
            singles.push(result);
        } else {
            repeated.insert(key, result);
        }
    }
    singles.extend(repeated.into_values());
    singles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_twice_is_answered_once_and_last() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&[], &[]),
            (&["b", "a"], &["b", "a"]),
            (&["a", "b", "a"], &["b", "a"]),
            (&["d", "d", "c", "b", "c", "c"], &["b", "c", "d"]),
        ];
        for (named, expected) in cases {
            assert_eq!(answered_once(named.iter().map(|name| (*name, *name))), expected, "{named:?}");
        }
    }
}
