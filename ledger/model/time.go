package model

import "fmt"

// ParseTimestamp reads an RFC 3339 time, such as 2026-03-01T09:00:00Z or
// 2026-03-01T09:00:00.5+01:00, as nanoseconds since the Unix epoch. The years are
// 1678 to 2261, which 64 bits hold. It is our own and frozen: the fold reads times
// with it. 'T' and 'Z' are upper case, seconds are at most 59, fractions have 1 to 9 digits.
func ParseTimestamp(text string) (int64, error) {
	fail := func() (int64, error) {
		return 0, fmt.Errorf("%+q is not an RFC 3339 time such as 2026-03-01T09:00:00Z, of the years 1678 to 2261", text)
	}
	s := text
	number := func(digits int, sep string) (int64, bool) {
		if len(s) < digits+len(sep) || s[digits:digits+len(sep)] != sep {
			return 0, false
		}
		var n int64
		for i := range digits {
			if s[i] < '0' || s[i] > '9' {
				return 0, false
			}
			n = n*10 + int64(s[i]-'0')
		}
		s = s[digits+len(sep):]
		return n, true
	}
	year, ok1 := number(4, "-")
	month, ok2 := number(2, "-")
	day, ok3 := number(2, "T")
	hour, ok4 := number(2, ":")
	minute, ok5 := number(2, ":")
	second, ok6 := number(2, "")
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) || year < 1678 || year > 2261 || month < 1 || month > 12 ||
		day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return fail()
	}
	var nanos int64
	if len(s) > 0 && s[0] == '.' {
		n := 1
		for unit := int64(100_000_000); n < len(s) && s[n] >= '0' && s[n] <= '9'; n++ {
			if unit == 0 {
				return fail()
			}
			nanos += int64(s[n]-'0') * unit
			unit /= 10
		}
		if n == 1 {
			return fail()
		}
		s = s[n:]
	}
	var zone int64 // seconds east of UTC
	switch {
	case s == "Z":
	case len(s) == 6 && (s[0] == '+' || s[0] == '-'):
		sign := int64(1)
		if s[0] == '-' {
			sign = -1
		}
		s = s[1:]
		h, okh := number(2, ":")
		m, okm := number(2, "")
		if !okh || !okm || h > 23 || m > 59 {
			return fail()
		}
		zone = sign * (h*3600 + m*60)
	default:
		return fail()
	}
	seconds := daysSinceEpoch(year, month, day)*86400 + hour*3600 + minute*60 + second - zone
	return seconds*1_000_000_000 + nanos, nil
}

func daysIn(year, month int64) int64 {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSinceEpoch counts the days from 1970-01-01 in the Gregorian calendar, with
// years that start in March so that the leap day comes last.
func daysSinceEpoch(year, month, day int64) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 719469
}

// ParseDuration reads a duration as numbers with units, such as 8h, 1h30m or 1.5s, in
// nanoseconds; units are h, m, s, ms, us, ns. It is our own and frozen, like
// [ParseTimestamp]. At most 64 bits of nanoseconds: about 292 years.
func ParseDuration(text string) (int64, error) {
	fail := func() (int64, error) {
		return 0, fmt.Errorf("%+q is not a duration such as 8h, 1h30m or 1.5s", text)
	}
	s, negative := text, false
	if s != "" && s[0] == '-' {
		s, negative = s[1:], true
	}
	if s == "" {
		return fail()
	}
	if s == "0" {
		return 0, nil
	}
	const most = 1<<63 - 1
	var total uint64
	for s != "" {
		var whole, fraction, scale uint64 = 0, 0, 1
		n := 0
		for ; n < len(s) && s[n] >= '0' && s[n] <= '9'; n++ {
			if whole > most/10 {
				return fail()
			}
			whole = whole*10 + uint64(s[n]-'0')
		}
		digits := n
		if n < len(s) && s[n] == '.' {
			n++
			for start := n; n < len(s) && s[n] >= '0' && s[n] <= '9'; n++ {
				if n-start < 9 { // finer than nanoseconds of any unit below an hour is dropped
					fraction = fraction*10 + uint64(s[n]-'0')
					scale *= 10
				}
				digits++
			}
		}
		if digits == 0 {
			return fail()
		}
		s = s[n:]
		unit := uint64(0)
		for _, u := range [...]struct {
			name  string
			nanos uint64
		}{{"ns", 1}, {"us", 1_000}, {"ms", 1_000_000}, {"s", 1_000_000_000}, {"m", 60_000_000_000}, {"h", 3_600_000_000_000}} {
			if len(s) >= len(u.name) && s[:len(u.name)] == u.name {
				unit = u.nanos
				s = s[len(u.name):]
				break
			}
		}
		if unit == 0 || whole > most/unit {
			return fail()
		}
		// fraction < 10^9 and unit/1000 < 4·10^9, so the product fits 64 bits.
		part := whole * unit
		if unit >= 1000 {
			part += fraction*(unit/1000)/scale*1000 + fraction*(unit/1000)%scale*1000/scale
		}
		if part > most || total > most-part {
			return fail()
		}
		total += part
	}
	if negative {
		return -int64(total), nil
	}
	return int64(total), nil
}
