# What the programs of tools/ are made of.
copse_test(hello)
