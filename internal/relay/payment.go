package relay

import (
	"math"
	"strconv"
	"strings"
)

// Payment is the normal form of a payment, the same for every provider. A
// field that the provider does not send is null.
type Payment struct {
	ID          string `json:"id,omitempty"`
	AmountMinor *int64 `json:"amount_minor,omitempty"`
	Currency    string `json:"currency,omitempty"` // ISO 4217, upper case
	Exponent    int    `json:"exponent"`           // digits after the point of this currency at this provider
	Method      string `json:"method,omitempty"`
	Email       string `json:"email,omitempty"`
	Live        *bool  `json:"live,omitempty"`
	Account     string `json:"account,omitempty"`
}

// Identity is the provider's id of the payment, "" where there is none.
func (p *Payment) Identity() string {
	if p == nil {
		return ""
	}
	return p.ID
}

// Amount is the amount in units: 2050 minor units are 20.5 EUR or 2050 JPY.
// It is null (nil) when the provider names no amount.
func (p *Payment) Amount() any {
	if p == nil || p.AmountMinor == nil {
		return nil
	}
	if p.Exponent == 0 {
		return *p.AmountMinor
	}
	return float64(*p.AmountMinor) / math.Pow10(p.Exponent)
}

// AmountText is the amount in units, exactly and with all its digits: 20.50.
func (p *Payment) AmountText() any {
	if p == nil || p.AmountMinor == nil {
		return nil
	}
	return FormatMinor(*p.AmountMinor, p.Exponent)
}

// FormatMinor writes minor units as a decimal with exp digits after the point.
func FormatMinor(minor int64, exp int) string {
	digits, sign := strconv.FormatInt(minor, 10), ""
	if minor < 0 {
		sign, digits = "-", digits[1:]
	}
	if exp == 0 {
		return sign + digits
	}
	if len(digits) <= exp {
		digits = strings.Repeat("0", exp+1-len(digits)) + digits
	}
	return sign + digits[:len(digits)-exp] + "." + digits[len(digits)-exp:]
}

// ParseMinor reads a decimal amount in units, such as 20.5 or 1,234 never,
// as minor units. It refuses more digits than the currency has.
func ParseMinor(text string, exp int) (int64, bool) {
	whole, frac, _ := strings.Cut(text, ".")
	frac = strings.TrimRight(frac, "0")
	if whole == "" || len(frac) > exp {
		return 0, false
	}
	n, err := strconv.ParseInt(whole+frac+strings.Repeat("0", exp-len(frac)), 10, 64)
	return n, err == nil
}

// minorDigits holds the ISO 4217 exponents that are not 2.
var minorDigits = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0,
	"PYG": 0, "RWF": 0, "UGX": 0, "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
	"CLF": 4, "UYW": 4,
}

// currencies are the codes of money that ISO 4217 lists. Those that it dropped
// lately stand here too while providers still report them.
const currencies = `
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD
CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD
HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD
MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR
RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS
UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
CUC HRK SLL ZWL`

var knownCurrencies = func() map[string]bool {
	known := map[string]bool{}
	for _, code := range strings.Fields(currencies) {
		known[code] = true
	}
	return known
}()

// IsCurrency reports whether a code, in capitals or not, is one of ISO 4217. It
// is asked of what somebody writes down, never of what a provider reports.
func IsCurrency(code string) bool { return knownCurrencies[strings.ToUpper(code)] }

// CurrencyExponent returns the ISO 4217 exponent of a currency: how many
// digits its minor unit has. Unknown currencies have two.
func CurrencyExponent(currency string) int {
	if exp, ok := minorDigits[strings.ToUpper(currency)]; ok {
		return exp
	}
	return 2
}

// ShownPayment is a payment as the API and hooks show it.
type ShownPayment struct {
	ID          *string `json:"id"`
	Amount      any     `json:"amount"`
	AmountText  any     `json:"amount_text"`
	AmountMinor *int64  `json:"amount_minor"`
	Currency    *string `json:"currency"`
	Method      *string `json:"method"`
	Email       *string `json:"email"`
	Live        *bool   `json:"live"`
	Account     *string `json:"account"`
}

// Shown is p as it is shown; of no payment nothing.
func (p *Payment) Shown() *ShownPayment {
	if p == nil {
		return nil
	}
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	return &ShownPayment{
		ID: text(p.ID), Amount: p.Amount(), AmountText: p.AmountText(), AmountMinor: p.AmountMinor,
		Currency: text(p.Currency), Method: text(p.Method), Email: text(p.Email), Live: p.Live, Account: text(p.Account),
	}
}
