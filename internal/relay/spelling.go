package relay

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// The bounds of a suggestion. Names that differ by more are other names, and
// longer ones are none that anybody mistyped.
const (
	maxMisspelt = 2     // signs
	maxSpelling = 64    // bytes of a name that is compared
	maxKnown    = 1_000 // names that it is compared with: some 10 ms
)

// DidYouMean goes on after the refusal of a name that is none of the known
// ones: with the one that it was most probably meant to be, or with nothing.
func DidYouMean(name string, known []string) string {
	best, at := "", maxMisspelt+1
	// Of short names most are near each other: one sign in four may differ.
	if least := max(1, utf8.RuneCountInString(name)/4); least < maxMisspelt {
		at = least + 1
	}
	if name == "" || len(name) > maxSpelling {
		return ""
	}
	for _, candidate := range known[:min(len(known), maxKnown)] {
		if len(candidate) > maxSpelling {
			continue
		}
		if d := typos([]rune(strings.ToLower(name)), []rune(strings.ToLower(candidate))); d < at {
			best, at = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// typos counts the signs that one has to insert, leave out, change or swap with
// their neighbour to make b of a (optimal string alignment).
func typos(a, b []rune) int {
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row = above, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := above[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
