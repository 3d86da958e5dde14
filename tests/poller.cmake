copse_test(poller)
copse_test(system)
