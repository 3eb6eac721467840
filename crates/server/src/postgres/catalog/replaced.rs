//! Questions of clients that DataFusion cannot plan in any spelling, and the question that is
//! answered instead: the same columns, for the cases that exist here.

/// What marks the question, and what stands for it.
const REPLACED: [(&str, &str); 1] = [
    // asyncpg, before it uses a type that it does not know (arrays, for instance): a recursive
    // query with a recursive query in each row. There are no domains, composites or ranges of
    // users here, so a type's own row and its element's are enough.
    (
        "typeinfo_tree(",
        "SELECT t.oid, ns.nspname AS ns, t.typname AS name, t.typtype AS kind, \
         CAST(NULL AS oid) AS basetype, t.typelem AS elemtype, e.typdelim AS elemdelim, \
         CAST(NULL AS oid) AS range_subtype, CAST(NULL AS text[]) AS attrtypoids, \
         CAST(NULL AS text[]) AS attrnames, 0 AS depth, CAST(NULL AS text) AS basetype_name, \
         e.typname AS elemtype_name, CAST(NULL AS text) AS range_subtype_name \
         FROM pg_catalog.pg_type t \
         JOIN pg_catalog.pg_namespace ns ON ns.oid = t.typnamespace \
         LEFT JOIN pg_catalog.pg_type e ON t.typlen = -1 AND e.oid = t.typelem \
         WHERE t.oid = any($1::oid[])",
    ),
];

/// The question to answer, with the parameters or literals of the one that was asked.
pub(super) fn replaced(sql: &str) -> Option<String> {
    let (_, instead) = REPLACED.iter().find(|(mark, _)| sql.contains(mark))?;
    // Literals stand where parameters stood once the statement is bound.
    let asked = sql.split("any(").nth(1)?;
    let argument = &asked[..asked.find("::oid[]")?];
    Some(instead.replace("$1", argument))
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn the_argument_is_kept() {
        let asked =
            "WITH RECURSIVE typeinfo_tree(\n oid) AS (.. ti.oid = any(ARRAY[1016]::oid[]) ..";
        assert!(replaced(asked).unwrap().ends_with("any(ARRAY[1016]::oid[])"));
        assert!(replaced("SELECT 1").is_none());
    }
}
