package interleave

// TablesOf tells which tables a statement reads, and which it writes or locks.
func TablesOf(sql string) (reads, writes []string) { return tablesOf(sql) }
