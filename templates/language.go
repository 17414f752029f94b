package templates

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// fallback is the language of those whose own is not there.
const fallback = "en"

// maxWanted bounds the languages that are read of one header.
const maxWanted = 20

// Wanted lists the languages of a person: the one that the wait was
// registered with, then those of the browser's Accept-Language, the dearest
// first.
func Wanted(locale, header string) (languages []string) {
	type choice struct {
		language string
		quality  float64
	}
	var choices []choice
	for item := range strings.SplitSeq(header, ",") {
		language, params, _ := strings.Cut(item, ";")
		quality := 1.0
		if q, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			var err error
			if quality, err = strconv.ParseFloat(q, 64); err != nil {
				quality = 0
			}
		}
		if language = strings.TrimSpace(language); language != "" && language != "*" && quality > 0 {
			choices = append(choices, choice{language, quality})
		}
		if len(choices) == maxWanted {
			break
		}
	}
	slices.SortStableFunc(choices, func(a, b choice) int { return cmp.Compare(b.quality, a.quality) })
	if locale != "" {
		languages = append(languages, strings.ReplaceAll(locale, "_", "-"))
	}
	for _, c := range choices {
		languages = append(languages, c.language)
	}
	return languages
}

// Choose returns the first of the wanted languages that is offered: itself,
// without its last parts (de for de-AT), or with another region (pt-BR for
// pt). Where none is, the first that is offered.
func Choose(wanted, offered []string) string {
	for _, language := range wanted {
		for tag := language; tag != ""; tag = tag[:max(strings.LastIndexByte(tag, '-'), 0)] {
			if i := slices.IndexFunc(offered, func(o string) bool { return strings.EqualFold(o, tag) }); i >= 0 {
				return offered[i]
			}
		}
		base := baseOf(language)
		if i := slices.IndexFunc(offered, func(o string) bool { return baseOf(o) == base }); i >= 0 {
			return offered[i]
		}
	}
	if len(offered) == 0 {
		return fallback
	}
	return offered[0]
}

func baseOf(language string) string {
	base, _, _ := strings.Cut(language, "-")
	return strings.ToLower(base)
}

// directionOf says how a language is written: ltr or rtl.
func directionOf(language string) string {
	if rightToLeft(language) {
		return "rtl"
	}
	return "ltr"
}

// rightToLeft reports whether a language is written from right to left: by the
// script that it names, else by the one that it mostly has.
func rightToLeft(language string) bool {
	for _, part := range strings.Split(language, "-")[1:] {
		switch strings.ToLower(part) {
		case "arab", "hebr", "thaa", "nkoo", "adlm":
			return true
		case "latn", "cyrl":
			return false
		}
	}
	return slices.Contains([]string{"ar", "he", "iw", "fa", "ur", "ps", "sd", "ug", "yi", "dv", "ckb"}, baseOf(language))
}
