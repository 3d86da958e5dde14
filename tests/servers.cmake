# What a listener does when it cannot accept.
copse_test(accept)
