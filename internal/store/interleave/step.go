package interleave

import (
	"regexp"
	"slices"
	"strings"
)

// step is what is let through a door at once.
type step struct {
	sql           string
	raw           []byte
	statements    int    // whose end is waited for
	free          bool   // it is nobody's turn: passed on at once
	pid           int32  // of the server's process
	reads, writes tables // of a statement; what it locks it writes
	commits       bool   // or rolls back
	shows         tables // what a commit makes visible
}

// tables are names of tables, sorted.
type tables []string

// and returns the union.
func (t tables) and(more tables) tables {
	all := slices.Concat(t, more)
	slices.Sort(all)
	return slices.Compact(all)
}

func (t tables) meets(other tables) bool {
	return slices.ContainsFunc(t, func(name string) bool { return slices.Contains(other, name) })
}

// independent reports whether two steps of different transactions come to the
// same in either order, so that one order is enough. A statement does not see
// what is not committed, but waits for who wrote it.
func independent(a, b *step) bool {
	switch {
	case a.commits && b.commits:
		return true
	case a.commits:
		return !a.shows.meets(b.reads) && !a.shows.meets(b.writes)
	case b.commits:
		return independent(b, a)
	default:
		return !a.writes.meets(b.writes)
	}
}

var (
	comment  = regexp.MustCompile(`--[^\n]*`)
	named    = regexp.MustCompile(`\b(FROM|JOIN|USING|INTO|UPDATE) ([a-z_]+)(?: (?:AS )?([a-z]+)\b)?`)
	locking  = regexp.MustCompile(`\bFOR UPDATE(?: OF ([a-z]+))?`)
	conflict = regexp.MustCompile(`\bDO UPDATE\b`)
)

// tablesOf reads out of a statement which tables it reads and which it writes
// or locks. It knows the SQL of this project, and takes a name too many rather
// than one too few: names of CTEs are among them.
func tablesOf(sql string) (reads, writes tables) {
	sql = strings.Join(strings.Fields(comment.ReplaceAllString(sql, "")), " ")
	locks := locking.FindAllStringSubmatch(sql, -1)
	sql = conflict.ReplaceAllString(locking.ReplaceAllString(sql, ""), "")
	alias := map[string]string{}
	for _, m := range named.FindAllStringSubmatchIndex(sql, -1) {
		word, name := sql[m[2]:m[3]], sql[m[4]:m[5]]
		if m[6] >= 0 {
			alias[sql[m[6]:m[7]]] = name
		}
		if word == "INTO" || word == "UPDATE" || word == "FROM" && strings.HasSuffix(sql[:m[0]], "DELETE ") {
			writes = append(writes, name)
		}
		reads = append(reads, name)
	}
	for _, m := range locks {
		if name, ok := alias[m[1]]; ok {
			writes = append(writes, name)
		} else {
			writes = append(writes, reads...)
		}
	}
	return reads.and(nil), writes.and(nil)
}
